//! What a guest opens its connection with: TLS or HTTP, and whom it says it means.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{limits, stream::GuestStream};
use crate::policy::{Name, NameError};

/// How HTTP/2 begins where both ends know that it is spoken (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// "There is nobody of that name here", fatally (RFC 8446, section 6; RFC 6066, section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a connection is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Tls,
    Http1,
    Http2,
}

/// What a guest says in the first message of TLS.
#[derive(Debug)]
pub(super) struct Hello {
    /// The server name, if there is one.
    pub(super) name: Option<Result<Name, NameError>>,
    /// Whether it can go on with HTTP/2.
    pub(super) http2: bool,
}

/// Wait for the first bytes. `None` if the guest closes without a word.
pub(super) async fn spoken(guest: &mut GuestStream) -> io::Result<Option<Spoken>> {
    if guest.ahead().is_empty() && !within(limits::IDLE_DEADLINE, guest.look()).await? {
        return Ok(None);
    }
    let decide = async {
        loop {
            if let Some(spoken) = by_bytes(guest.ahead()) {
                return Ok(spoken);
            }
            if !guest.look().await? {
                return Ok(Spoken::Http1);
            }
        }
    };
    within(limits::HELLO_DEADLINE, decide).await.map(Some)
}

/// Not the port: what can be the beginning of TLS cannot be that of HTTP. `None` if more has to be seen.
fn by_bytes(ahead: &[u8]) -> Option<Spoken> {
    match ahead {
        [] => None,
        // Its records, and a hello in the format of SSL 2, which is refused with an alert.
        [0x16 | 0x80.., ..] => Some(Spoken::Tls),
        _ if ahead.starts_with(PREFACE) => Some(Spoken::Http2),
        _ if PREFACE.starts_with(ahead) => None,
        _ => Some(Spoken::Http1),
    }
}

/// Read ahead the first message of TLS. What is none is answered with an alert.
pub(super) async fn hello(guest: &mut GuestStream) -> io::Result<Hello> {
    within(limits::HELLO_DEADLINE, read_hello(guest)).await
}

async fn read_hello(guest: &mut GuestStream) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        while seen < guest.ahead().len() {
            seen += acceptor.read_tls(&mut &guest.ahead()[seen..])?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let name = hello.server_name().map(str::parse);
                    let http2 = hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == b"h2"));
                    return Ok(Hello { name, http2 });
                }
                Ok(None) => {}
                Err((e, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    guest.write_all(&bytes).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no TLS that is understood: {e}")));
                }
            }
        }
        if seen > limits::MAX_HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the first message of its TLS is too long"));
        }
        if !guest.look().await? {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the first message of TLS"));
        }
    }
}

/// Say so, and close.
pub(super) async fn refuse(guest: &mut GuestStream) {
    let said = async {
        guest.write_all(&UNRECOGNIZED_NAME).await?;
        guest.shutdown().await
    };
    // One that is gone, or does not read, does not hear it.
    let _ = within(limits::HELLO_DEADLINE, said).await;
}

/// With words for a deadline that has passed.
pub(super) async fn within<T>(deadline: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(deadline, work).await.unwrap_or_else(|_| {
        let why = format!("nothing for {} s", deadline.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spoken_is_seen_in_the_bytes() {
        for (bytes, spoken) in [
            (&b""[..], None),
            (b"\x16", Some(Spoken::Tls)),
            (b"\x80\x2e\x01\x03\x01", Some(Spoken::Tls)),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PRI * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (PREFACE, Some(Spoken::Http2)),
            (b"\0", Some(Spoken::Http1)),
        ] {
            assert_eq!(by_bytes(bytes), spoken, "{}", bytes.escape_ascii());
        }
    }
}
