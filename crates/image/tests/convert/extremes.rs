//! Large directories and large files.

use std::{collections::BTreeSet, fs, io::Read, os::unix::fs::FileExt};

use matchlock_image::Limits;

use crate::{
    image::{convert, convert_with},
    layer::{Attributes, Layer},
};

#[test]
fn a_directory_of_100_000_names() {
    // Lengths of all kinds, so that blocks end in every way.
    let name = |n: usize| format!("{n:06}{}", "x".repeat(n * 7 % 90));
    let layer = (0..100_000).fold(Layer::new(), |layer, n| layer.file(format!("d/{}", name(n)), ""));
    let image = convert([layer.finish()]).unwrap();
    assert_eq!(image.summary.inodes, 100_002);
    image.look(|root| {
        let listed =
            fs::read_dir(root.join("d")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let listed: BTreeSet<_> = listed.collect();
        assert_eq!(listed, (0..100_000).map(name).collect());
        for n in (0..100_000).step_by(97) {
            assert!(root.join("d").join(name(n)).is_file());
        }
        assert!(!root.join("d/absent").exists());
    });
}

#[test]
fn a_sparse_file_beyond_4_gib() {
    let size = (5_u64 << 30) + 5;
    let map = format!("0,4,{},5", size - 5);
    let layer = Layer::new()
        .pax(&[
            ("GNU.sparse.realsize".into(), size.to_string().into_bytes()),
            ("GNU.sparse.map".into(), map.into_bytes()),
        ])
        .file("huge", "headfinis")
        .file("after", "after");
    let image = convert([layer.finish()]).unwrap();
    assert!(image.summary.bytes > 5 << 30);
    // Extracting would take 5 GiB of disk; the kernel reads it in place, an ordinary user only has it checked.
    if crate::image::is_root() {
        image.look(|root| {
            let huge = fs::File::open(root.join("huge")).unwrap();
            assert_eq!(huge.metadata().unwrap().len(), size);
            let read = |at| {
                let mut bytes = [9; 4];
                huge.read_exact_at(&mut bytes, at).unwrap();
                bytes
            };
            assert_eq!((&read(0), &read(1 << 32), &read(size - 4)), (b"head", &[0; 4], b"inis"));
            assert_eq!(fs::read_to_string(root.join("after")).unwrap(), "after");
        });
    }
}

#[test]
#[ignore = "streams 9 GiB through the converter; scripts/test --long runs it"]
fn a_full_file_beyond_8_gib() {
    // Beyond what eleven octal digits say, so that the size is in GNU's binary form.
    let size = (9_u64 << 30) + 1;
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..4].copy_from_slice(b"huge");
    header.set_size(size);
    let head = Layer::new().raw(header, "").unfinished();
    let end = Layer::new().entry(tar::EntryType::Regular, "after", "", "after", &Attributes::mode(0o644)).finish();
    let padding = std::io::repeat(0).take(511);
    let image = convert_with(Limits::default(), |converter| {
        let body = std::io::repeat(0).take(size - 4).chain(&b"last"[..]);
        Ok(vec![converter.apply_layer((&head[..]).chain(body).chain(padding).chain(&end[..]))?])
    })
    .unwrap();
    image.look(|root| {
        let huge = fs::File::open(root.join("huge")).unwrap();
        let mut last = [0; 5];
        huge.read_exact_at(&mut last, size - 5).unwrap();
        assert_eq!((huge.metadata().unwrap().len(), &last), (size, b"\0last"));
        assert_eq!(fs::read_to_string(root.join("after")).unwrap(), "after");
    });
}
