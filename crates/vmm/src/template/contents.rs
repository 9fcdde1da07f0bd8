//! What is in a large sparse file, in a form that shows every change.
//!
//! Against disks that fail and files that were cut short, not against whoever can write to the folder: they could as
//! well replace the recipe. So it is a checksum, and one that keeps up with the memory bus.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Bytes that share a checksum.
const CHUNK: usize = 1024 * 1024;

/// Bytes that are given back to the file system together when all of them are zero.
const HOLE: usize = 64 * 1024;

/// Size and content of a file. Chunks that are a hole, or zero, have no entry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    len: u64,
    /// A chunk's number and its checksum.
    chunks: Vec<(u64, u32)>,
}

impl Contents {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let mut chunks = Vec::new();
        each_chunk(file, |number, bytes| {
            if bytes.iter().any(|byte| *byte != 0) {
                chunks.push((number, crc32c::crc32c(bytes)));
            }
            Ok(())
        })?;
        Ok(Self { len: file.metadata()?.len(), chunks })
    }
}

/// Give back what a file keeps for zeros.
pub(super) fn drop_zeros(file: &File) -> io::Result<()> {
    each_chunk(file, |number, bytes| {
        for (part, bytes) in (0u64..).zip(bytes.chunks(HOLE)) {
            if bytes.iter().all(|byte| *byte == 0) {
                let at = number * CHUNK as u64 + part * HOLE as u64;
                punch(file, at, bytes.len() as u64)?;
            }
        }
        Ok(())
    })
}

fn punch(file: &File, at: u64, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len) {
        // A file system that cannot: the file is only larger than it need be.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Call `look` with every chunk that is not altogether a hole.
fn each_chunk(file: &File, mut look: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let len = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(errno) => return Err(errno.into()),
        };
        let number = data / CHUNK as u64;
        let start = number * CHUNK as u64;
        let size = usize::try_from(len - start).map_or(CHUNK, |left| left.min(CHUNK));
        file.read_exact_at(&mut buffer[..size], start)?;
        look(number, &buffer[..size])?;
        at = start + CHUNK as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(20 * CHUNK as u64 + 5).unwrap();
        file.write_all_at(b"front", 0).unwrap();
        file.write_all_at(&vec![0; 3 * CHUNK], 4 * CHUNK as u64).unwrap();
        file.write_all_at(b"middle", 5 * CHUNK as u64 + 70_000).unwrap();
        file.write_all_at(b"end", 20 * CHUNK as u64 + 2).unwrap();
        file
    }

    #[test]
    fn zeros_take_up_no_room_and_are_like_holes() {
        let file = sparse();
        let (before, blocks) = (Contents::of(&file).unwrap(), file.metadata().unwrap().blocks());
        drop_zeros(&file).unwrap();
        assert!(file.metadata().unwrap().blocks() < blocks);
        assert_eq!(Contents::of(&file).unwrap(), before);
        assert_eq!(before.chunks.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 5, 20]);
    }

    #[test]
    fn every_bit_counts_and_so_does_the_length() {
        let before = Contents::of(&sparse()).unwrap();
        for at in [0, 4, 5, 10 * CHUNK as u64, 20 * CHUNK as u64 + 4] {
            let file = sparse();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 16], at).unwrap();
            assert_ne!(Contents::of(&file).unwrap(), before, "a bit of byte {at}");
        }
        for len in [0, CHUNK as u64, 20 * CHUNK as u64 + 4, 20 * CHUNK as u64 + 6] {
            let file = sparse();
            file.set_len(len).unwrap();
            assert_ne!(Contents::of(&file).unwrap(), before, "{len} bytes");
        }
    }
}
