//! Layers into a tree and the tree into an image, over a base layer that has something to hide, link and follow.
//!
//! The last byte says how to take the rest: as it is (so that the decompressors are reached), or as tar blocks whose
//! checksums are put right first, since no mutation would ever guess one.
#![no_main]

use std::fs::File;

use libfuzzer_sys::fuzz_target;
use matchlock_image::{Converter, Limits};
use rustix::fs::{MemfdFlags, memfd_create};
use tar::{Builder, EntryType, Header};

fuzz_target!(|input: &[u8]| {
    let Some((&how, layer)) = input.split_last() else { return };
    let mut layer = layer.to_vec();
    if how & 1 == 0 {
        correct_checksums(&mut layer);
    }
    let image = memfd_create("image", MemfdFlags::empty()).expect("memfd_create");
    let limits = Limits { entries: 2000, unpacked_bytes: 1 << 20, metadata_bytes: 1 << 20, ..Limits::default() };
    let mut converter = Converter::create(File::from(image), limits).expect("create");
    converter.apply_layer(&base()[..]).expect("the base layer is sound");
    // An error is the usual end; a panic, an overflow or a hang is a finding.
    if converter.apply_layer(&layer[..]).is_ok() {
        converter.finish().expect("what was taken can be written");
    }
});

fn correct_checksums(layer: &mut [u8]) {
    for block in layer.chunks_exact_mut(512).filter(|block| block.iter().any(|&byte| byte != 0)) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}

fn base() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut add = |kind, path: &str, link: &str, data: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(path).expect("short");
        header.set_link_name_literal(link).expect("short");
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append(&header, data).expect("to memory");
    };
    add(EntryType::Directory, "d/d", "", b"");
    add(EntryType::Regular, "d/f", "", b"data");
    add(EntryType::Link, "h", "d/f", b"");
    add(EntryType::Symlink, "s", "d", b"");
    add(EntryType::Symlink, "d/l", "../s/l", b"");
    tar.into_inner().expect("to memory")
}
