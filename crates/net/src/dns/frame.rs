//! DNS over TCP: every message after its length in two bytes (RFC 1035, section 4.2.2).

use thiserror::Error;

/// What a peer announces is longer than it may be; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a DNS message of {0} bytes is announced")]
pub struct FrameTooLong(pub usize);

/// A message with its length before it. A message is at most 65535 bytes long, as [`Reply`](super::Reply) is.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let message = message.get(..length.into()).unwrap_or(message);
    [&length.to_be_bytes(), message].concat()
}

/// A message, and what was read after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Without its length.
    pub message: &'a [u8],
    /// The beginning of the next.
    pub rest: &'a [u8],
}

/// The first whole message in what was read; `None` while there is more to read.
///
/// # Errors
/// If a message over `most` bytes is announced, before any of it is here.
pub fn next_frame(read: &[u8], most: usize) -> Result<Option<Frame<'_>>, FrameTooLong> {
    let Some((length, rest)) = read.split_first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > most {
        return Err(FrameTooLong(length));
    }
    Ok(rest.split_at_checked(length).map(|(message, rest)| Frame { message, rest }))
}
