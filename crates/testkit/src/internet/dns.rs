//! The internet's DNS server: over UDP, TCP and TLS, and for DNS over HTTPS (RFC 8484).

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UdpSocket,
};

use super::{
    record::{Arrival, Records},
    zone::Zone,
};

/// Bytes of an answer over UDP to who does not say what it takes (RFC 1035, section 4.2.1).
const PLAIN: usize = 512;

/// Answers questions and records them. Clones share.
#[derive(Clone, Debug)]
pub(super) struct Dns {
    zone: Arc<Zone>,
    records: Records,
}

impl Dns {
    pub(super) fn new(zone: Zone, records: Records) -> Self {
        Self { zone: Arc::new(zone), records }
    }

    /// The answer to a message; `None` if it is no question.
    pub(super) fn answer(&self, query: &[u8], over: &'static str) -> Option<Vec<u8>> {
        let (name, kind, answer) = self.zone.answer(query)?;
        self.records.add(Arrival::Question { name, kind: kind.to_string(), over, bytes: query.to_vec() });
        let bytes = answer.to_vec().ok()?;
        if over == "udp" && bytes.len() > PLAIN { answer.truncate().to_vec().ok() } else { Some(bytes) }
    }

    /// Serve datagrams.
    pub(super) async fn datagrams(self, socket: UdpSocket) -> io::Result<()> {
        let mut query = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut query).await?;
            if let Some(answer) = self.answer(&query[..length], "udp") {
                // A client that has gone has no use for it.
                let _ = socket.send_to(&answer, client).await;
            }
        }
    }

    /// Serve one connection, on which every message follows its length (RFC 1035, section 4.2.2).
    pub(super) async fn connection<S>(self, mut stream: S, over: &'static str) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let mut query = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut query).await?;
            let Some(answer) = self.answer(&query, over) else { return Ok(()) };
            stream.write_u16(u16::try_from(answer.len()).unwrap_or(0)).await?;
            stream.write_all(&answer).await?;
        }
    }
}
