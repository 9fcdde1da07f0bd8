//! The uncompressed kernel inside a bzImage.
//!
//! Booted directly (PVH entry), it spares the guest its own unpacking, which takes an emulator most of half a second
//! at each start. Formats are those of Linux `Documentation/arch/x86/boot.rst`, field `payload_offset`, and of the kernel's
//! `scripts/Makefile.lib`. Invariant: nothing larger than [`MAX_KERNEL`] is made, and what is returned can be booted by its
//! PVH entry; every other file yields `None` and is to be booted as it is.

use std::io::Read;

/// Bound on the unpacked kernel.
const MAX_KERNEL: usize = 256 * 1024 * 1024;
/// Uncompressed size of one block in LZ4's legacy frames.
const LZ4_BLOCK: usize = 8 * 1024 * 1024;
/// `Xen` note that holds the PVH entry point (Xen `public/elfnote.h`, `XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_ENTRY: usize = 18;

/// The ELF kernel in `image`.
pub(super) fn elf_kernel(image: &[u8]) -> Option<Vec<u8>> {
    let payload = payload(image)?;
    let elf = match payload.get(..6)? {
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(&payload[4..])?,
        [0x1f, 0x8b, ..] => bounded(flate2::read::GzDecoder::new(payload))?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => bounded(zstd::stream::read::Decoder::new(payload).ok()?.single_frame())?,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => bounded(liblzma::read::XzDecoder::new(payload))?,
        _ => return None,
    };
    has_pvh_entry(&elf).then_some(elf)
}

/// The compressed part of a bzImage; its last four bytes are the size of what comes out.
fn payload(image: &[u8]) -> Option<&[u8]> {
    (image.get(0x202..0x206)? == b"HdrS" && number(image, 0x206, 2)? >= 0x208).then_some(())?;
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = ((setup_sectors + 1) * 512).checked_add(number(image, 0x248, 4)?)?;
    let end = start.checked_add(number(image, 0x24c, 4)?)?.checked_sub(4)?;
    image.get(start..end)
}

fn bounded(reader: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_KERNEL as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= MAX_KERNEL).then_some(bytes)
}

/// LZ4 legacy frame (`doc/lz4_Frame_format.md`, "Legacy frame"), after its magic: blocks, each behind its length.
fn lz4_legacy(mut blocks: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while !blocks.is_empty() {
        let len = number(blocks, 0, 4)?;
        let packed = blocks.get(4..)?.get(..len)?;
        let size = lz4_flex::block::decompress_into(packed, &mut block).ok()?;
        (out.len() + size <= MAX_KERNEL).then_some(())?;
        out.extend_from_slice(&block[..size]);
        blocks = &blocks[4 + len..];
    }
    Some(out)
}

/// Does a note of this ELF file name a PVH entry point?
fn has_pvh_entry(elf: &[u8]) -> bool {
    const PROGRAM_HEADER: usize = 56;
    let note_segments = || {
        elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
        let (table, count) = (number(elf, 0x20, 8)?, number(elf, 0x38, 2)?);
        Some((0..count).filter_map(move |index| {
            let header = elf.get(table.checked_add(index * PROGRAM_HEADER)?..)?;
            (number(header, 0, 4)? == 4).then_some(())?;
            let start = number(header, 8, 8)?;
            elf.get(start..start.checked_add(number(header, 32, 8)?)?)
        }))
    };
    note_segments().into_iter().flatten().any(has_pvh_note)
}

fn has_pvh_note(mut notes: &[u8]) -> bool {
    let mut next = || {
        let (name_len, len, kind) = (number(notes, 0, 4)?, number(notes, 4, 4)?, number(notes, 8, 4)?);
        let name = notes.get(12..)?.get(..name_len)?;
        let size = 12usize.checked_add(name_len.next_multiple_of(4))?.checked_add(len.checked_next_multiple_of(4)?)?;
        notes = notes.get(size..)?;
        Some(name == b"Xen\0" && kind == PVH_ENTRY)
    };
    std::iter::from_fn(&mut next).any(|found| found)
}

/// A little-endian number of `width` bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// An ELF file with one note segment that holds a note before the PVH one.
    fn kernel(kind: u8) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64 + 56, 0);
        elf[0x20] = 64;
        elf[0x38] = 1;
        let mut notes = vec![4, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0];
        notes.extend(b"GNU\0ab\0\0");
        notes.extend([4, 0, 0, 0, 4, 0, 0, 0, kind, 0, 0, 0]);
        notes.extend(b"Xen\0addr");
        elf[64] = 4;
        elf[64 + 8] = 120;
        elf[64 + 32] = u8::try_from(notes.len()).unwrap();
        elf.extend(notes);
        elf
    }

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 5 * 512 + 16];
        image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        image[0x248] = 16;
        image[0x24c..0x250].copy_from_slice(&(u32::try_from(payload.len()).unwrap() + 4).to_le_bytes());
        image.extend(payload);
        image.extend([0; 4]);
        image
    }

    fn packings(elf: &[u8]) -> [Vec<u8>; 4] {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(elf).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(elf).unwrap();
        let block = lz4_flex::block::compress(elf);
        let len = u32::try_from(block.len()).unwrap().to_le_bytes();
        let lz4 = [&[0x02, 0x21, 0x4c, 0x18][..], &len, &block].concat();
        [gz.finish().unwrap(), xz.finish().unwrap(), zstd::encode_all(elf, 1).unwrap(), lz4]
    }

    #[test]
    fn every_packing_is_undone_if_the_kernel_has_a_pvh_entry() {
        for payload in packings(&kernel(18)) {
            assert_eq!(elf_kernel(&image(&payload)).unwrap(), kernel(18));
        }
        for payload in packings(&kernel(17)) {
            assert_eq!(elf_kernel(&image(&payload)), None);
        }
    }

    #[test]
    fn damaged_images_are_left_alone() {
        for payload in packings(&kernel(18)) {
            let whole = image(&payload);
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0xff;
                let _ = elf_kernel(&damaged); // no panic
                assert!(at >= whole.len() - 4 || elf_kernel(&whole[..at]).is_none());
            }
        }
        let elf = kernel(18);
        assert!((0..elf.len()).all(|len| !has_pvh_entry(&elf[..len])));
    }
}
