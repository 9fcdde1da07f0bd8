//! What is in a large sparse file, in a form that shows every change.
//!
//! Against disks that fail and files that were cut short, not against whoever can write to the folder: they could as
//! well replace the recipe. So it is a checksum, and one that keeps up with the memory bus.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Bytes that share a checksum.
const CHUNK: usize = 1024 * 1024;

/// Bytes that are left out of a copy together when all of them are zero.
const HOLE: usize = 64 * 1024;

/// Size and content of a file. Chunks that are a hole, or zero, have no entry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
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

/// Copy `from` to `to`, which is empty; what is zero takes up no room there.
pub(super) fn copy(from: &File, to: &File) -> io::Result<Contents> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut chunks = Vec::new();
    each_chunk(from, |number, bytes| {
        let parts = (0u64..).zip(bytes.chunks(HOLE)).filter(|(_, part)| part.iter().any(|byte| *byte != 0));
        let mut any = false;
        for (part, bytes) in parts {
            to.write_all_at(bytes, number * CHUNK as u64 + part * HOLE as u64)?;
            any = true;
        }
        if any {
            chunks.push((number, crc32c::crc32c(bytes)));
        }
        Ok(())
    })?;
    Ok(Contents { len, chunks })
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
    fn a_copy_is_the_same_and_its_zeros_take_up_no_room() {
        let (file, copied) = (sparse(), tempfile::tempfile().unwrap());
        let before = Contents::of(&file).unwrap();
        assert_eq!(copy(&file, &copied).unwrap(), before);
        assert!(copied.metadata().unwrap().blocks() < file.metadata().unwrap().blocks());
        assert_eq!(Contents::of(&copied).unwrap(), before);
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
