//! One value, one line.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use zeroize::Zeroizing;

use super::MAX_LINE;

/// The value that `from` sends, however it is cut.
pub(super) async fn receive<T: DeserializeOwned>(from: impl AsyncRead + Unpin) -> io::Result<T> {
    let mut line = Zeroizing::new(Vec::new());
    BufReader::new(from.take(MAX_LINE)).read_until(b'\n', &mut line).await?;
    match line.last() {
        Some(b'\n') => Ok(serde_json::from_slice(&line)?),
        Some(_) if line.len() as u64 == MAX_LINE => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line has at most {MAX_LINE} bytes")))
        }
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Send `value`.
pub(super) async fn send(mut to: impl AsyncWrite + Unpin, value: &impl Serialize) -> io::Result<()> {
    let mut line = Zeroizing::new(serde_json::to_vec(value)?);
    line.push(b'\n');
    to.write_all(&line).await
}
