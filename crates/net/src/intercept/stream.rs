//! The guest's end of a connection: what was read of it to see what it is can be read again, and its bytes are counted.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::gateway::Moved;

/// Bytes that have passed a guest's socket, TLS included.
#[derive(Debug, Default)]
pub(super) struct Counted {
    from_guest: AtomicU64,
    to_guest: AtomicU64,
}

/// The stream.
pub(super) struct GuestStream {
    tcp: TcpStream,
    /// Read ahead, and how much of it was read again.
    ahead: Vec<u8>,
    again: usize,
    counted: Arc<Counted>,
}

impl Counted {
    pub(super) fn moved(&self) -> Moved {
        Moved { from_guest: self.from_guest.load(Relaxed), to_guest: self.to_guest.load(Relaxed) }
    }
}

impl GuestStream {
    pub(super) fn new(tcp: TcpStream, opening: Vec<u8>, counted: Arc<Counted>) -> Self {
        counted.from_guest.fetch_add(opening.len() as u64, Relaxed);
        Self { tcp, ahead: opening, again: 0, counted }
    }

    /// All that was read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Read ahead some more; false if nothing follows.
    pub(super) async fn look(&mut self) -> io::Result<bool> {
        let mut part = [0; 4096];
        let count = self.tcp.read(&mut part).await?;
        self.ahead.extend_from_slice(&part[..count]);
        self.counted.from_guest.fetch_add(count as u64, Relaxed);
        Ok(count > 0)
    }
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
        self.counted.from_guest.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.counted.to_guest.fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs))?;
        self.counted.to_guest.fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
