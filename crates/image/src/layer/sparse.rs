//! Maps of sparse files: GNU's old format in the header, and its PAX versions 0.x and 1.0.

use super::pax::decimal;
use crate::EntryProblem;

/// Most segments one file may have: 16 MiB of them in memory.
pub(super) const MAX_SEGMENTS: usize = 1 << 20;

/// A run of bytes that the archive carries; what lies between runs is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Collects a map and checks that it makes sense: ascending, within the file, exactly as long as the stored data.
#[derive(Debug, Default)]
pub(super) struct SparseMap(Vec<Segment>);

impl SparseMap {
    pub(super) fn push(&mut self, offset: u64, len: u64) -> Result<(), EntryProblem> {
        let end = self.0.last().map_or(0, |last| last.offset + last.len);
        if offset < end || offset.checked_add(len).is_none() || self.0.len() == MAX_SEGMENTS {
            return Err(EntryProblem::SparseMap);
        }
        self.0.push(Segment { offset, len });
        Ok(())
    }

    pub(super) fn finish(self, real_size: u64, stored: u64) -> Result<Vec<Segment>, EntryProblem> {
        let end = self.0.last().map_or(0, |last| last.offset + last.len);
        let carried: u64 = self.0.iter().map(|segment| segment.len).sum();
        if end > real_size || carried != stored {
            return Err(EntryProblem::SparseMap);
        }
        Ok(self.0)
    }

    pub(super) fn from_pairs(numbers: &[u64]) -> Result<Self, EntryProblem> {
        let mut map = Self::default();
        for pair in numbers.chunks(2) {
            let &[offset, len] = pair else { return Err(EntryProblem::SparseMap) };
            map.push(offset, len)?;
        }
        Ok(map)
    }
}

/// The map of PAX version 1.0: decimal lines in front of the data, fed byte-wise: count, then offset and length each.
#[derive(Debug, Default)]
pub(super) struct MapLines {
    line: Vec<u8>,
    pairs_left: Option<u64>,
    offset: Option<u64>,
    map: SparseMap,
}

impl MapLines {
    /// Takes 512 more bytes; `true` when the map is complete (what follows in the block is padding).
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<bool, EntryProblem> {
        for &byte in block {
            if byte != b'\n' {
                // 20 digits hold every u64.
                if self.line.len() == 20 {
                    return Err(EntryProblem::SparseMap);
                }
                self.line.push(byte);
                continue;
            }
            let number = decimal(&self.line).ok_or(EntryProblem::SparseMap)?;
            self.line.clear();
            match (&mut self.pairs_left, self.offset.take()) {
                (None, _) => self.pairs_left = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(left), Some(offset)) => {
                    self.map.push(offset, number)?;
                    *left -= 1;
                }
            }
            if self.pairs_left == Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn into_map(self) -> SparseMap {
        self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_contradict_themselves_are_refused() {
        assert!(SparseMap::from_pairs(&[0, 5, 4, 1]).is_err());
        assert!(SparseMap::from_pairs(&[0, 5, 6]).is_err());
        assert!(SparseMap::from_pairs(&[u64::MAX, 1]).is_err());
        assert!(SparseMap::from_pairs(&[0, 5]).unwrap().finish(4, 5).is_err());
        assert!(SparseMap::from_pairs(&[0, 5]).unwrap().finish(5, 4).is_err());
        assert_eq!(
            SparseMap::from_pairs(&[1, 2, 8, 0]).unwrap().finish(8, 2).unwrap(),
            [Segment { offset: 1, len: 2 }, Segment { offset: 8, len: 0 }]
        );
    }

    #[test]
    fn map_lines_may_cross_blocks() {
        let mut lines = MapLines::default();
        assert_eq!(lines.feed(b"2\n0\n5\n1"), Ok(false));
        assert_eq!(lines.feed(b"0\n7\n\0\0\0"), Ok(true));
        assert_eq!(
            lines.into_map().finish(17, 12).unwrap(),
            [Segment { offset: 0, len: 5 }, Segment { offset: 10, len: 7 }]
        );
    }
}
