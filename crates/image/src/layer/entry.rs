//! One tar entry, and the numbers in its header.

use tar::Header;

use super::{pax::Pax, sparse::Segment};
use crate::EntryProblem;

/// A tar entry with every extension applied and every number in range.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As the tar has it; not yet split or checked.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits with set-id and sticky bits, no file type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Full names and binary values, in the order of the PAX records.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) enum EntryKind {
    /// The size with holes, and what of it the archive carries; `None` is all of it.
    File {
        size: u64,
        segments: Option<Vec<Segment>>,
    },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(u64, u64),
    BlockDevice(u64, u64),
    Fifo,
}

/// Seconds since 1970 and nanoseconds after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

impl Entry {
    /// The entry that `header` and the extensions before it describe, less its kind.
    pub(super) fn new(header: &Header, path: Vec<u8>, kind: EntryKind, pax: Pax) -> Result<Self, EntryProblem> {
        let old = header.as_old();
        let mode = number(&old.mode).ok_or(EntryProblem::Field("mode"))?;
        let id = |from_pax: Option<u64>, field: &[u8], what| {
            let value = match from_pax {
                Some(value) => Some(value),
                None => number(field).and_then(|value| u64::try_from(value).ok()),
            };
            value.and_then(|value| u32::try_from(value).ok()).ok_or(EntryProblem::Field(what))
        };
        Ok(Self {
            path,
            kind,
            mode: u16::try_from(mode & 0o7777).unwrap_or_default(),
            uid: id(pax.uid, &old.uid, "uid")?,
            gid: id(pax.gid, &old.gid, "gid")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => Timestamp { seconds: number(&old.mtime).ok_or(EntryProblem::Field("mtime"))?, nanos: 0 },
            },
            xattrs: pax.xattrs,
        })
    }
}

/// A numeric header field: octal text with padding, or GNU's big-endian two's complement.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 is the sign; all bytes before the last eight must repeat it.
        let negative = first & 0x40 != 0;
        let start: i64 = if negative { -1 } else { 0 };
        let top = i64::from(first & 0x3f) | if negative { !0x3f } else { 0 };
        return rest.iter().try_fold(top, |value, &byte| {
            let fits = value >> 55 == start;
            fits.then_some(value << 8 | i64::from(byte))
        });
    }
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let digits = field.iter().skip_while(|byte| padding(byte)).take_while(|byte| !padding(byte));
    digits.into_iter().try_fold(0_i64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

/// A numeric header field that cannot be negative.
pub(super) fn unsigned(field: &[u8], what: &'static str) -> Result<u64, EntryProblem> {
    number(field).and_then(|value| u64::try_from(value).ok()).ok_or(EntryProblem::Field(what))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn header_numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x01\0\0\0\x02"), Some((1 << 32) + 2));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX));
        assert_eq!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
    }
}
