//! The frame header, encoded and decoded.

use crate::limits;

/// Bytes of a frame header.
pub(crate) const HEADER: usize = 12;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest is ready.
    Hello = 0,
    /// The host asks for something.
    Open = 1,
    /// A message inside a session.
    Note = 2,
    /// Bytes of a channel.
    Data = 3,
    /// Permission to send more bytes on a channel.
    Credit = 4,
    /// No more bytes will come on a channel.
    Eof = 5,
    /// The receiver of a channel takes no more bytes.
    Stop = 6,
    /// The session is over (from the guest) or to be ended (from the host).
    End = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Hello, Self::Open, Self::Note, Self::Data, Self::Credit, Self::Eof, Self::Stop, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// The largest payload of such a frame, in bytes.
    pub(crate) const fn max_payload(self) -> usize {
        match self {
            Self::Hello => limits::MAX_HELLO,
            Self::Open => limits::MAX_OPEN,
            Self::Note => limits::MAX_NOTE,
            Self::Data => limits::MAX_DATA,
            Self::Credit => 4,
            Self::Eof | Self::Stop | Self::End => 0,
        }
    }
}

/// One of the byte streams of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Host to guest: standard input.
    Input = 0,
    /// Guest to host: standard output, or all of a terminal's output.
    Output = 1,
    /// Guest to host: standard error.
    Error = 2,
}

impl Channel {
    /// Every channel, in wire order.
    pub const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Error];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| *channel as u8 == byte)
    }
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) channel: Channel,
    pub(crate) session: u32,
    pub(crate) len: usize,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind as u8;
        bytes[1] = self.channel as u8;
        bytes[4..8].copy_from_slice(&self.session.to_le_bytes());
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, or `None` if no peer of ours would send it.
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Option<Self> {
        let [kind, channel, 0, 0, s0, s1, s2, s3, l0, l1, l2, l3] = bytes else { return None };
        let kind = Kind::from_byte(kind)?;
        let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
        (len <= kind.max_payload()).then_some(())?;
        let channel = Channel::from_byte(channel)?;
        Some(Self { kind, channel, session: u32::from_le_bytes([s0, s1, s2, s3]), len })
    }
}
