//! A connection at a server: to whom it came, and a stream that tells the records what is read.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::{Arrival, Records};

/// Whom a client has reached, and whom it says it means.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    /// The address that was dialled.
    pub(super) server: SocketAddr,
    /// The name in TLS.
    pub(super) sni: Option<String>,
}

/// What is read of it is recorded.
#[derive(Debug)]
pub(super) struct Recorded<S> {
    stream: S,
    reached: Reached,
    records: Records,
}

impl<S> Recorded<S> {
    pub(super) fn new(stream: S, reached: &Reached, records: &Records) -> Self {
        Self { stream, reached: reached.clone(), records: records.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let bytes = buffer.filled()[before..].to_vec();
        if !bytes.is_empty() {
            let Reached { server, sni } = self.reached.clone();
            self.records.add(Arrival::Bytes { server, sni, bytes });
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
