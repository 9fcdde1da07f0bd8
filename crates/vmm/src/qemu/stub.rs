//! A kernel that is never run. QEMU reads the whole kernel before anything else, 50 MB of it, which takes it a third of its
//! start; a guest that was saved has its kernel in its memory. So a machine that restores one is given the smallest file that
//! QEMU takes for the same kind of kernel: the kind decides what other memory the machine has, which has to be the saved one's.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use rustix::fs::{MemfdFlags, memfd_create};

/// Where it would be loaded and entered: above what firmware uses.
const ADDRESS: u64 = 0x100_0000;

/// Sizes of an ELF header, of an entry of its program headers, and of the note (elf(5)).
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const NOTE: u64 = 24;

/// `XEN_ELFNOTE_PHYS32_ENTRY`, by which QEMU knows a kernel that it can enter directly (Xen `public/elfnote.h`).
const PHYS32_ENTRY: u32 = 18;

/// The file in place of `kernel`; `None` if that is of a kind that has none.
pub(super) fn of(kernel: &Path) -> io::Result<Option<File>> {
    let mut magic = [0; 4];
    File::open(kernel)?.read_exact(&mut magic)?;
    if magic != *b"\x7fELF" {
        return Ok(None);
    }
    let mut file = File::from(memfd_create("kernel-stub", MemfdFlags::CLOEXEC)?);
    file.write_all(&elf())?;
    Ok(Some(file))
}

/// An x86-64 executable of one segment, its note.
fn elf() -> Vec<u8> {
    const LOADED: u32 = 1;
    const NOTES: u32 = 4;
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let mut bytes = Vec::new();
    let halves = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend(halves(&[2, 62])); // ET_EXEC, EM_X86_64
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([ADDRESS, HEADER, 0].iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(halves(&[64, 56, 2, 0, 0, 0]));
    for kind in [LOADED, NOTES] {
        bytes.extend([kind, 4].iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend([note_at, ADDRESS, ADDRESS, NOTE, NOTE, 4].iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes.extend([4, 8, PHYS32_ENTRY].iter().flat_map(|value: &u32| value.to_le_bytes()));
    bytes.extend(b"Xen\0");
    bytes.extend(ADDRESS.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_entered_directly_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, elf()).unwrap();
        assert!(of(&path).unwrap().is_some());
        std::fs::write(&path, "MZ, as a bzImage").unwrap();
        assert!(of(&path).unwrap().is_none());
        assert!(of(&dir.path().join("missing")).is_err());
    }
}
