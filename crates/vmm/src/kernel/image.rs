//! A kernel file: is it one, and which version?
//!
//! Formats: bzImage (Linux `Documentation/arch/x86/boot.rst`) and uncompressed x86-64 ELF. Invariant: only what is
//! needed to tell is read, and every offset in the file is checked.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use super::host::release_of;

/// `HdrS` at this offset marks a kernel with a boot protocol header.
const HEADER_MAGIC: usize = 0x202;
/// Where the header says where its version text is, less 0x200.
const VERSION_POINTER: usize = 0x20e;
/// What an ELF kernel says at boot, and what stands in its data.
const BANNER: &[u8] = b"Linux version ";
/// Bound on the search for [`BANNER`].
const MAX_SEARCH: u64 = 128 * 1024 * 1024;
/// A version is shorter than this (`__NEW_UTS_LEN`).
const MAX_VERSION: usize = 64;

/// The version of the kernel in `path` (as `uname -r` would show it).
///
/// # Errors
/// The file cannot be read, or is neither a bzImage nor an x86-64 ELF kernel.
pub(super) fn version(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let mut head = Vec::new();
    (&file).take(0x10000).read_to_end(&mut head)?;
    let found = if head.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS") {
        bzimage_version(&head)
    } else if head.starts_with(b"\x7fELF\x02\x01") && head.get(18..20) == Some(&[62, 0]) {
        elf_version(&file)?
    } else {
        None
    };
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "neither a bzImage nor an x86-64 ELF kernel"))
}

fn bzimage_version(head: &[u8]) -> Option<String> {
    let pointer = head.get(VERSION_POINTER..VERSION_POINTER + 2)?;
    let at = usize::from(u16::from_le_bytes(pointer.try_into().ok()?)) + 0x200;
    first_word(head.get(at..)?)
}

fn elf_version(file: &File) -> io::Result<Option<String>> {
    const CHUNK: usize = 1024 * 1024;
    const OVERLAP: usize = BANNER.len() + MAX_VERSION;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < MAX_SEARCH {
        let read = file.read_at(&mut chunk, at)?;
        let text = &chunk[..read];
        let found = text.windows(BANNER.len()).position(|window| window == BANNER);
        if let Some(version) = found.and_then(|start| first_word(&text[start + BANNER.len()..])) {
            return Ok(Some(version));
        }
        if read < CHUNK {
            return Ok(None);
        }
        at += (CHUNK - OVERLAP) as u64;
    }
    Ok(None)
}

/// The text up to the first blank, which must be there, if that is what a version looks like.
fn first_word(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == b' ' || *b == 0)?;
    std::str::from_utf8(&bytes[..end]).ok().and_then(release_of)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn version_of(bytes: &[u8]) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        version(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn both_formats_tell_their_version_and_anything_else_is_refused() {
        let mut bz = vec![0; 0x400];
        bz[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        bz[VERSION_POINTER..VERSION_POINTER + 2].copy_from_slice(&0x100u16.to_le_bytes());
        bz[0x300..0x310].copy_from_slice(b"6.1.0-56-x (root");
        assert_eq!(version_of(&bz).unwrap(), "6.1.0-56-x");
        bz[VERSION_POINTER..VERSION_POINTER + 2].copy_from_slice(&0xffffu16.to_le_bytes());
        assert!(version_of(&bz).is_err());

        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(1024 * 1024 - 20, 0);
        elf[18] = 62;
        elf.extend(b"Linux version 6.12.1+ (x@y) #1"); // across the border of two reads
        elf.resize(3 * 1024 * 1024, 0);
        assert_eq!(version_of(&elf).unwrap(), "6.12.1+");
        elf[18] = 183; // arm64
        assert!(version_of(&elf).unwrap_err().contains("neither"));
        for bad in [&b""[..], b"#!/bin/sh", &[0; 0x206]] {
            assert!(version_of(bad).unwrap_err().contains("neither"));
        }
    }
}
