//! The guest's end of a connection: what was read of it to see what it is can be read again, and its bytes are counted.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Timeout, timeout},
};

use super::limits;
use crate::gateway::{Counted, Moved};

/// The stream.
pub(super) struct GuestStream {
    tcp: TcpStream,
    /// Read ahead, and how much of it was read again.
    ahead: Vec<u8>,
    again: usize,
    counted: Arc<Counted>,
    /// Since it was closed.
    lingers: Option<Pin<Box<Timeout<std::future::Pending<()>>>>>,
}

impl GuestStream {
    /// The socket, and what was read ahead of it.
    pub(super) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.tcp, self.ahead)
    }

    pub(super) fn new(tcp: TcpStream, opening: Vec<u8>, counted: Arc<Counted>) -> Self {
        counted.add(from_guest(opening.len()));
        Self { tcp, ahead: opening, again: 0, counted, lingers: None }
    }

    /// All that was read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Read ahead some more; false if nothing follows.
    pub(super) async fn look(&mut self) -> io::Result<bool> {
        // Not into an array, which would be a part of the connection's future for ever.
        let count = self.tcp.read_buf(&mut self.ahead).await?;
        self.counted.add(from_guest(count));
        Ok(count > 0)
    }
}

fn from_guest(count: usize) -> Moved {
    Moved { from_guest: count as u64, to_guest: 0 }
}

fn to_guest(count: usize) -> Moved {
    Moved { from_guest: 0, to_guest: count as u64 }
}

impl AsyncRead for GuestStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.again < self.ahead.len() {
            let rest = &self.ahead[self.again..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            self.again += count;
            if self.again == self.ahead.len() {
                (self.ahead, self.again) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.counted.add(from_guest(buf.filled().len() - before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.counted.add(to_guest(count));
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs))?;
        self.counted.add(to_guest(count));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    /// A guest that is still sending, an upload that was refused, would be reset and never read why. So it is heard out for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
            self.lingers = Some(Box::pin(timeout(limits::LINGER_DEADLINE, std::future::pending())));
        }
        let Self { tcp, lingers: Some(lingers), .. } = &mut *self else { return Poll::Ready(Ok(())) };
        let mut thrown_away = [0; 4096];
        while lingers.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            // One that is gone, or has reset it, has nothing to lose.
            if ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
