//! Servers of this internet that speak neither HTTP nor DNS.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UdpSocket,
};
use tokio_rustls::TlsAcceptor;

use super::record::{Arrival, Records};

/// What a database says first.
pub(super) const BANNER: &[u8] = b"ready\n";

/// Sends everything back.
pub(super) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

/// Speaks first, as SSH and many databases do, and then sends everything back.
pub(super) async fn banner(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(BANNER).await?;
    echo(stream).await
}

/// As much of a mail server as there is before the mail: it can go over to TLS (RFC 3207), and then sends everything back.
pub(super) async fn mail<S>(stream: S, tls: Arc<ServerConfig>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.good.test ESMTP\r\n").await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer: &[u8] = match line.trim_end().to_ascii_uppercase().split(' ').next() {
            Some("EHLO") => b"250-mail.good.test\r\n250 STARTTLS\r\n",
            Some("STARTTLS") => b"220 go on\r\n",
            _ => b"502 no\r\n",
        };
        stream.write_all(answer).await?;
        if answer.starts_with(b"220") {
            let stream = TlsAcceptor::from(tls).accept(stream.into_inner()).await?;
            return echo(stream).await;
        }
    }
}

/// Sends each datagram back.
pub(super) async fn datagrams(socket: UdpSocket, records: Records) -> io::Result<()> {
    let port = socket.local_addr().map(|own: SocketAddr| own.port())?;
    let mut buffer = vec![0; 65535];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        records.add(Arrival::Datagram { port, bytes: buffer[..length].to_vec() });
        // A client that has gone has no use for it.
        let _ = socket.send_to(&buffer[..length], client).await;
    }
}
