//! The rules one by one, where the model does not go: links on the way, implied parents, odd archives.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use tar::{EntryType, Header};

use crate::{
    image::{convert, is_root},
    layer::{Attributes, Layer},
    merge::ACL,
    snapshot::{Kind, Snapshot},
};

/// All paths of the image, directories with a slash behind, links with their target, files with their text.
fn listing<L: AsRef<[u8]>>(layers: impl IntoIterator<Item = L>) -> String {
    let image = convert(layers).unwrap();
    image.look(|root| {
        let snapshot = Snapshot::read(root);
        let lines = snapshot.0.iter().filter(|(path, _)| !path.is_empty()).map(|(path, node)| {
            let path = String::from_utf8_lossy(path);
            match &node.kind {
                Kind::Directory => format!("{path}/"),
                Kind::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
                _ => format!("{path}: {}", fs::read_to_string(root.join(&*path)).unwrap_or_default()),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

#[test]
fn links_on_the_way_are_followed_inside_the_root() {
    let base = Layer::new()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/./lib")
        .symlink("up", "../../../usr/lib/..")
        .symlink("missing", "opt/made");
    let upper = Layer::new()
        .file("lib/a", "1")
        .file("abs/b", "2")
        .file("up/c", "3")
        .file("missing/d", "4")
        .hard_link("e", "lib/a")
        .file("lib/.wh.b", "");
    insta::assert_snapshot!(listing([base.finish(), upper.finish()]), @"
    abs -> /usr/./lib
    e: 1
    lib -> usr/lib
    missing -> opt/made
    opt/
    opt/made/
    opt/made/d: 4
    up -> ../../../usr/lib/..
    usr/
    usr/c: 3
    usr/lib/
    usr/lib/a: 1
    usr/lib/b: 2
    ");
}

#[test]
fn a_directory_replaces_a_link_and_a_link_a_directory() {
    let base = Layer::new().file("real/f", "old").symlink("link", "real").file("dir/f", "old");
    let upper = Layer::new().dir("link", 0o755).file("link/g", "new").symlink("dir", "real");
    insta::assert_snapshot!(listing([base.finish(), upper.finish()]), @"
    dir -> real
    link/
    link/g: new
    real/
    real/f: old
    ");
}

#[test]
fn whiteouts_hide_lower_layers_only_wherever_they_are_in_the_tar() {
    let base =
        || Layer::new().file("d/lower", "1").file("o/lower", "1").file("o/sub/lower", "1").file("f", "1").finish();
    let first = Layer::new().file(".wh.d", "").file("o/.wh..wh..opq", "").file(".wh.f", "");
    let first = first.file("d/upper", "2").file("o/sub/upper", "2").file("f", "2").finish();
    let last = Layer::new().file("d/upper", "2").file("o/sub/upper", "2").file("f", "2");
    let last = last.file(".wh.d", "").file("o/.wh..wh..opq", "").file(".wh.f", "").finish();
    assert_eq!(listing([base(), first]), listing([base(), last.clone()]));
    insta::assert_snapshot!(listing([base(), last]), @"
    d/
    d/upper: 2
    f: 2
    o/
    o/sub/
    o/sub/upper: 2
    ");
}

#[test]
fn bookkeeping_of_aufs_and_whiteouts_of_nothing_leave_no_trace() {
    let layer = Layer::new().dir(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "");
    let layer = layer.file("no/where/.wh.x", "").file("nor/here/.wh..wh..opq", "").file("kept", "");
    assert_eq!(listing([layer.finish()]), "kept: ");
}

#[test]
fn parents_that_are_only_implied_are_filled_in_by_their_entry() {
    let layer = Layer::new().file("a/b/f", "").dir("a", 0o2711).dir("./", 0o700);
    let image = convert([layer.finish()]).unwrap();
    let mode = |root: &Path, path: &str| fs::symlink_metadata(root.join(path)).unwrap().mode() & 0o7777;
    image.look(|root| {
        assert!(root.join("a/b/f").is_file() || !is_root());
        if is_root() {
            assert_eq!((mode(root, ""), mode(root, "a"), mode(root, "a/b")), (0o700, 0o2711, 0o755));
        }
    });
}

#[test]
fn hard_links_reach_through_layers_and_survive_what_they_were_made_from() {
    let base = Layer::new().file("f", "data").symlink("s", "f");
    let upper = Layer::new().hard_link("same", "/f").hard_link("t", "./s").file(".wh.f", "").hard_link("same", "same");
    let image = convert([base.finish(), upper.finish()]).unwrap();
    image.look(|root| {
        assert_eq!(fs::read_to_string(root.join("same")).unwrap(), "data");
        assert!(!root.join("f").exists());
        assert_eq!(fs::symlink_metadata(root.join("same")).unwrap().nlink(), 1);
        assert_eq!(fs::read_link(root.join("t")).unwrap(), Path::new("f"));
    });
}

#[test]
fn attributes_of_all_kinds_are_kept_and_those_of_overlayfs_dropped() {
    let big = vec![0xab; 40_000];
    let binary = b"\0a=b\n\n7 x=\0".to_vec();
    let xattr = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let mut attributes = Attributes::mode(0o6755);
    attributes.xattrs = vec![
        xattr("user.binary", &binary),
        xattr("user.empty", b""),
        xattr("user.overlay.redirect", b"/etc"),
        xattr("trusted.big", &big),
        xattr("trusted.overlay.opaque", b"y"),
        xattr("security.capability", b"\x01\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        xattr("system.posix_acl_access", ACL),
        xattr("system.posix_acl_default", ACL),
        xattr("unknown.prefix", b"x"),
    ];
    // A target that does not fit beside its inode and attributes goes into a block of its own.
    let long_target = "x/".repeat(2000);
    let layer = Layer::new().entry(EntryType::Directory, "d", "", "", &attributes).entry(
        EntryType::Symlink,
        "s",
        &long_target,
        "",
        &Attributes { xattrs: vec![xattr("security.x", &[1; 300])], ..Attributes::mode(0o777) },
    );
    let image = convert([layer.finish()]).unwrap();
    image.look(|root| {
        let snapshot = Snapshot::read(root);
        assert_eq!(snapshot.0[&b"s"[..]].kind, Kind::Symlink(long_target.into_bytes()));
        if is_root() {
            let kept = [0, 1, 3, 5, 6, 7].map(|at| attributes.xattrs[at].clone());
            let kept = kept.map(|(name, value)| (name.into_bytes(), value));
            assert_eq!(snapshot.0[&b"d"[..]].xattrs, kept.into());
            assert_eq!(snapshot.0[&b"s"[..]].xattrs.len(), 1);
        }
    });
}

#[test]
fn long_names_in_both_dialects() {
    let name = "n".repeat(255);
    let deep = vec!["d".repeat(200); 18].join("/");
    let gnu = |kind: u8, text: &str| {
        let mut header = Header::new_gnu();
        header.as_old_mut().linkflag[0] = kind;
        header.set_size(text.len() as u64 + 1);
        (header, [text.as_bytes(), b"\0"].concat())
    };
    let (long_name, name_data) = gnu(b'L', &format!("gnu/{name}"));
    let (long_link, link_data) = gnu(b'K', &deep);
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    let layer = Layer::new().file(&deep, "deep").file(format!("pax/{name}"), "pax");
    let layer = layer.raw(long_link, link_data).raw(long_name, name_data).raw(header, "");
    let image = convert([layer.finish()]).unwrap();
    image.look(|root| {
        assert_eq!(fs::read_to_string(root.join(&deep)).unwrap(), "deep");
        assert_eq!(fs::read_to_string(root.join("pax").join(&name)).unwrap(), "pax");
        assert_eq!(fs::read_link(root.join("gnu").join(&name)).unwrap(), Path::new(&deep));
    });
}

#[test]
fn sparse_files_of_gnu_tar_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let mut data = vec![0; 3 << 20];
    // More runs than the old format's header holds.
    for at in (0..data.len()).step_by(100_000) {
        data[at..at + 700].fill(7);
    }
    let file = fs::File::create(folder.path().join("sparse")).unwrap();
    for at in (0..data.len()).step_by(4096).filter(|at| data[*at..*at + 4096].contains(&7)) {
        std::os::unix::fs::FileExt::write_all_at(&file, &data[at..at + 4096], at as u64).unwrap();
    }
    file.set_len(data.len() as u64).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let tar = Command::new("tar")
            .args(format)
            .args(["--sparse", "-cf-", "-C"])
            .arg(folder.path())
            .arg("sparse")
            .output()
            .unwrap();
        assert!(tar.status.success());
        assert!(tar.stdout.len() < 1 << 20, "{format:?} is not sparse");
        let image = convert([tar.stdout]).unwrap();
        image.look(|root| assert!(fs::read(root.join("sparse")).unwrap() == data, "{format:?}"));
    }
}

#[test]
fn odd_but_valid_archives() {
    let mut v7_directory = Header::new_old();
    v7_directory.as_old_mut().name[..4].copy_from_slice(b"old/");
    v7_directory.set_mode(0o755);
    v7_directory.set_size(0);
    // Types without data have none, whatever their size says.
    let mut sized_link = Header::new_ustar();
    sized_link.as_old_mut().name[..4].copy_from_slice(b"link");
    sized_link.as_old_mut().linkname[..1].copy_from_slice(b"f");
    sized_link.set_entry_type(EntryType::Link);
    sized_link.set_size(4096);
    let mut global = Header::new_ustar();
    global.set_entry_type(EntryType::XGlobalHeader);
    global.set_size(14);
    let layer = Layer::new().raw(global, "14 path=other\n").raw(v7_directory, "").file("f", "x").raw(sized_link, "");
    let without_end = layer.unfinished();
    let mut with_trailing_data = [without_end.clone(), vec![0; 1024]].concat();
    with_trailing_data.extend_from_slice(&[1; 5000]);
    assert_eq!(listing([&without_end]), "f: x\nlink: x\nold/");
    assert_eq!(listing([&with_trailing_data]), "f: x\nlink: x\nold/");
    assert_eq!(listing([b""]), "");
    let image = convert([&with_trailing_data]).unwrap();
    assert_eq!(image.layers[0].uncompressed_bytes, with_trailing_data.len() as u64);
}

#[test]
fn compressed_streams_of_several_parts() {
    let tar = Layer::new().file("f", "x").finish();
    let (head, tail) = tar.split_at(700);
    let gzip = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap()
    };
    let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec();
    let zstd = |data| zstd::encode_all(data, 3).unwrap();
    let several =
        [tar.clone(), [gzip(head), gzip(tail)].concat(), [skipped.clone(), zstd(head), zstd(tail), skipped].concat()];
    // However a layer is stored, the image is the same to the byte.
    let images = several.map(|stored| fs::read(convert([stored]).unwrap().path()).unwrap());
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(listing([tar]), "f: x");
}

#[test]
fn what_a_later_layer_replaces_takes_no_space() {
    let noise: Vec<u8> = (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0] | 1).collect();
    let base = Layer::new().file("big", &noise).file("zeros", vec![0; 8 << 20]).finish();
    let upper = Layer::new().file("big", "small").finish();
    let image = convert([base, upper]).unwrap();
    let occupied = fs::metadata(image.path()).unwrap().blocks() * 512;
    assert!(image.summary.bytes > 16 << 20);
    assert!(occupied < 1 << 20, "{occupied} bytes occupied");
}
