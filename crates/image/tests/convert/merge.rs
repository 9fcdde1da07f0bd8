//! Random layers: what the kernel and `fsck.erofs` read is what the model says.

use std::io::Write;

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    image::convert,
    layer::Attributes,
    model::{Change, Content, Model},
};

/// A POSIX ACL as the attribute has it: version 2, then owner, a user, group, mask and others.
pub(crate) const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x07\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

/// Few names, so that layers meet; symbolic links have their own, so that no path leads through one.
fn path(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let parents = vec(select(vec!["a", "b", "-", "zz"]), 0..3);
    (parents, select(names)).prop_map(|(mut components, name)| {
        components.push(name);
        components.join("/")
    })
}

fn any_path() -> impl Strategy<Value = String> {
    path(&["a", "b", "c", "-", "!", "..c", "zz", "\u{fc}"])
}

fn attributes(user_xattrs: bool) -> impl Strategy<Value = Attributes> {
    let name = if user_xattrs { "(user|security|trusted)\\.[a-z.]{1,20}" } else { "(security|trusted)\\.[a-z]{1,5}" };
    let xattr = (name, vec(any::<u8>(), 0..300));
    (
        0_u32..0o10000,
        select(vec![0, 1000, 65_534, 2_097_151]),
        select(vec![0, 42, 2_097_151]),
        (-5_000_000_000_i64..5_000_000_000, select(vec![0, 1, 999_999_999])),
        prop_oneof![3 => Just(Vec::new()), 1 => vec(xattr, 1..4)],
    )
        .prop_map(|(mode, uid, gid, mtime, mut xattrs)| {
            xattrs.sort();
            xattrs.dedup_by(|a, b| a.0 == b.0);
            Attributes { mode, uid, gid, mtime, xattrs }
        })
}

fn file() -> impl Strategy<Value = Content> {
    let size = prop_oneof![0..100_usize, 2000..2100_usize, 4000..4200_usize, 8190..8194_usize, 0..100_000_usize];
    (any::<u8>(), size).prop_map(|(fill, size)| Content::File(fill, size))
}

fn change() -> impl Strategy<Value = Change> {
    let add = |content: BoxedStrategy<Content>, path: BoxedStrategy<String>, user: bool| {
        (path, content, attributes(user)).prop_map(|(path, content, attributes)| Change::Add(path, content, attributes))
    };
    let special = prop_oneof![
        Just(Content::Fifo),
        (1_u32..4096, 0_u32..1_048_576).prop_map(|(major, minor)| Content::CharDevice(major, minor)),
        (1_u32..4096, 0_u32..1_048_576).prop_map(|(major, minor)| Content::BlockDevice(major, minor)),
    ];
    let special = special.prop_filter("octal fields", |content| match content {
        Content::CharDevice(_, minor) | Content::BlockDevice(_, minor) => *minor < 0o7_777_777,
        _ => true,
    });
    let symlink = "[a-z/.]{1,300}".prop_map(Content::Symlink);
    prop_oneof![
        4 => add(file().boxed(), any_path().boxed(), true),
        3 => add(Just(Content::Directory).boxed(), any_path().boxed(), true),
        1 => add(special.boxed(), any_path().boxed(), false)
            .prop_map(|change| match change {
                // The helper for devices writes no PAX records.
                Change::Add(path, content, attributes) => {
                    let (seconds, _) = attributes.mtime;
                    let plain = Attributes { mtime: (seconds.abs(), 0), xattrs: Vec::new(), ..attributes };
                    Change::Add(path.replace('\u{fc}', "u"), content, plain)
                }
                other => other,
            }),
        1 => add(symlink.boxed(), path(&["link", "other"]).boxed(), false)
            .prop_map(|change| match change {
                Change::Add(path, content, attributes) =>
                    Change::Add(path, content, Attributes { mode: 0o777, ..attributes }),
                other => other,
            }),
        2 => (any_path(), any::<usize>()).prop_map(|(path, choice)| Change::HardLink(path, choice)),
        2 => any_path().prop_map(Change::Whiteout),
        1 => path(&["a", "b", "-"]).prop_map(Change::Opaque),
    ]
}

fn compress(tar: &[u8], how: u8) -> Vec<u8> {
    match how {
        0 => tar.to_vec(),
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::encode_all(tar, 1).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn layers_become_the_tree_that_the_rules_say(layers in vec((vec(change(), 0..25), 0..3_u8), 1..4)) {
        let mut model = Model::new();
        let tars: Vec<_> = layers.iter().map(|(changes, how)| (model.apply(changes), *how)).collect();
        let stored: Vec<_> = tars.iter().map(|(tar, how)| compress(tar, *how)).collect();
        let image = convert(&stored).unwrap();
        for (applied, (tar, _)) in image.layers.iter().zip(&tars) {
            prop_assert_eq!(applied.uncompressed_bytes, tar.len() as u64);
            prop_assert_eq!(applied.diff_id, digest(tar));
        }
        image.assert_is(&model.snapshot());
    }
}

fn digest(tar: &[u8]) -> matchlock_model::Digest {
    use sha2::{Digest, Sha256};
    matchlock_model::Digest::from_bytes(Sha256::digest(tar).into())
}
