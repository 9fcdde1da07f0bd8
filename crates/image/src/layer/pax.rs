//! PAX extended headers (POSIX pax, "pax Header Block"), as far as layers use them.
//!
//! Values are taken by their stated length, so that binary attributes with newlines and NULs survive.

use super::entry::Timestamp;
use crate::EntryProblem;

/// What the records before one entry say. `None` is "as in the header".
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU tar's records for sparse files in their three versions (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    /// `GNU.sparse.name`: the real path where `path` is a made-up one.
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Versions 0.0 and 0.1: offset, length, offset, length …
    pub(super) map: Vec<u64>,
}

impl Pax {
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, EntryProblem> {
        let mut pax = Self::default();
        // GNU tar pads with NULs where others end exactly.
        while !records.is_empty() && records[0] != 0 {
            let (key, value, rest) = record(records).ok_or(EntryProblem::Field("PAX record"))?;
            pax.set(key, value)?;
            records = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), EntryProblem> {
        // POSIX: an empty value takes back what an earlier record said.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let number = |what| match value {
            [] => Ok(None),
            _ => decimal(value).map(Some).ok_or(EntryProblem::Field(what)),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number("PAX size")?,
            b"uid" => self.uid = number("PAX uid")?,
            b"gid" => self.gid = number("PAX gid")?,
            b"mtime" => self.mtime = timestamp(value)?,
            b"GNU.sparse.major" => self.sparse.major = number("PAX sparse version")?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = number("PAX sparse size")?,
            b"GNU.sparse.map" => {
                self.sparse.map = value
                    .split(|&byte| byte == b',')
                    .map(|number| decimal(number).ok_or(EntryProblem::SparseMap))
                    .collect::<Result<_, _>>()?;
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_offset = key.ends_with(b"offset");
                if is_offset != self.sparse.map.len().is_multiple_of(2) {
                    return Err(EntryProblem::SparseMap);
                }
                self.sparse.map.push(decimal(value).ok_or(EntryProblem::SparseMap)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value);
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        self.xattrs.push((name.to_vec(), value.to_vec()));
    }
}

/// Splits `LEN KEY=VALUE\n` off the front: key, value, what follows.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(&records[..space])?).ok()?;
    if len <= space || len > records.len() {
        return None;
    }
    let (record, rest) = records.split_at(len);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

/// Decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// `[-]SECONDS[.FRACTION]`, rounded down to nanoseconds.
fn timestamp(value: &[u8]) -> Result<Option<Timestamp>, EntryProblem> {
    if value.is_empty() {
        return Ok(None);
    }
    let parse = || {
        let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
        let point = value.iter().position(|&byte| byte == b'.').unwrap_or(value.len());
        let seconds = i64::try_from(decimal(&value[..point])?).ok()?;
        let fraction = value.get(point + 1..).unwrap_or_default();
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digit = |place: usize| fraction.get(place).map_or(0, |byte| u32::from(byte - b'0'));
        let nanos = (0..9).fold(0, |nanos, place| nanos * 10 + digit(place));
        Some(match (negative, nanos) {
            (false, nanos) => Timestamp { seconds, nanos },
            (true, 0) => Timestamp { seconds: -seconds, nanos: 0 },
            (true, nanos) => Timestamp { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
        })
    };
    parse().map(Some).ok_or(EntryProblem::Field("PAX mtime"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_and_overrides() {
        let records = b"30 SCHILY.xattr.user.k=a\n\0=b\n\n19 mtime=-1.250000\n10 path=x\n8 path=\n";
        let pax = Pax::parse(records).unwrap();
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), b"a\n\0=b\n".to_vec())]);
        assert_eq!(pax.mtime, Some(Timestamp { seconds: -2, nanos: 750_000_000 }));
        assert_eq!(pax.path, None);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in ["5 a=", "99 a=b\n", "0 a=b\n", "3 a\n", "a=b\n", "6 a=bc", "18446744073709551616 a=b\n"] {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
