//! Directory blocks: entries first, then their names, sorted over all blocks, as the kernel's binary search needs it.

use super::{
    BLOCK, BLOCK_BYTES,
    format::{DIRENT_BYTES, FileType, dirent},
};

/// One name of a directory.
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) file_type: FileType,
}

/// How long the directory of these names, in order, will be: full blocks, and bytes in the last one.
pub(super) fn measure<'a>(names: impl Iterator<Item = &'a [u8]>) -> (u32, u64) {
    let (mut full, mut used) = (0, 0);
    for name in names {
        let needed = (DIRENT_BYTES + name.len()) as u64;
        if used + needed > BLOCK {
            full += 1;
            used = 0;
        }
        used += needed;
    }
    (full, used)
}

/// The contents, block by block; what does not fill a block is not padded.
pub(super) fn blocks(entries: &[Dirent<'_>]) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let (block, after) = rest.split_at(fitting(rest));
        rest = after;
        (!block.is_empty()).then(|| encode_block(block))
    })
}

/// How many of the first entries one block holds.
fn fitting(entries: &[Dirent<'_>]) -> usize {
    let mut used = 0;
    let fits = |entry: &&Dirent<'_>| {
        used += DIRENT_BYTES + entry.name.len();
        used <= BLOCK_BYTES
    };
    entries.iter().take_while(fits).count()
}

fn encode_block(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut name_offset = entries.len() * DIRENT_BYTES;
    for entry in entries {
        // Offsets are below the block size.
        let offset = u16::try_from(name_offset).unwrap_or(u16::MAX);
        block.extend_from_slice(&dirent(entry.nid, offset, entry.file_type));
        name_offset += entry.name.len();
    }
    for entry in entries {
        block.extend_from_slice(entry.name);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_is_written() {
        for (count, len) in [(1, 1), (300, 1), (2000, 200), (15, 255), (16, 244), (17, 244)] {
            let names: Vec<_> = (0..count).map(|n| format!("{n:0len$}").into_bytes()).collect();
            let entries: Vec<_> =
                names.iter().map(|name| Dirent { name, nid: 9, file_type: FileType::Regular }).collect();
            let (full, tail) = measure(names.iter().map(Vec::as_slice));
            let blocks: Vec<_> = blocks(&entries).collect();
            assert_eq!(blocks.len(), full as usize + 1, "{count} names of {len}");
            assert_eq!(blocks.last().unwrap().len() as u64, tail, "{count} names of {len}");
        }
    }
}
