//! Layers made to do harm, or damaged: one line that names the entry, and never a panic.

use std::error::Error;

use matchlock_image::{ConvertError, Converter, Limits};
use tar::{EntryType, Header};

use crate::{
    image::{convert, convert_within},
    layer::{Attributes, Layer},
};

/// The error as the user gets it: the message and its causes.
fn line(error: &ConvertError) -> String {
    let causes = std::iter::successors(Some(error as &dyn Error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn refused(layer: impl AsRef<[u8]>) -> String {
    refused_within(Limits::default(), layer)
}

fn refused_within(limits: Limits, layer: impl AsRef<[u8]>) -> String {
    match convert_within(limits, [layer]) {
        Ok(_) => panic!("was taken"),
        Err(error) => line(&error),
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn entries_that_cannot_be_part_of_an_image() {
    let device = |numbers| Layer::new().device(EntryType::Char, "dev/x", numbers, &Attributes::mode(0o600));
    let mut unknown = Header::new_ustar();
    unknown.as_old_mut().name[..3].copy_from_slice(b"odd");
    unknown.as_old_mut().linkflag[0] = b'V';
    unknown.set_size(0);
    let xattr = |len| Attributes { xattrs: vec![("user.x".into(), vec![1; len])], ..Attributes::mode(0o644) };
    let lines: Vec<_> = [
        Layer::new().file("a/../../etc/passwd", ""),
        Layer::new().hard_link("a", "../../etc/passwd"),
        Layer::new().hard_link("a", "/etc/passwd"),
        Layer::new().dir("d", 0o755).hard_link("a", "d"),
        Layer::new().hard_link("a", "/"),
        Layer::new().file("a\0b", ""),
        Layer::new().symlink("a", "b\0c"),
        Layer::new().symlink("a", ""),
        Layer::new().file("", ""),
        Layer::new().file("./", ""),
        Layer::new().file("line\nbreak/..", ""),
        Layer::new().file("n".repeat(256), ""),
        Layer::new().file("d/".repeat(2049) + "f", ""),
        Layer::new().symlink("a", "x".repeat(4096)),
        Layer::new().symlink("a", "b").symlink("b", "a").file("a/f", ""),
        Layer::new().file(".wh.", ""),
        Layer::new().file("a/.wh...", ""),
        device((0, 0)),
        device((4096, 0)),
        Layer::new().raw(unknown, ""),
        Layer::new().entry(EntryType::Regular, "a", "", "", &xattr(65_536)),
        Layer::new().pax(&[("uid".into(), b"4294967296".to_vec())]).file("a", ""),
        Layer::new().pax(&[("mtime".into(), b"1e9".to_vec())]).file("a", ""),
        Layer::new().pax(&[("GNU.sparse.realsize".into(), b"9".to_vec())]).file("a", "data"),
    ]
    .into_iter()
    .map(|layer| refused(layer.finish()))
    .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    layer entry "a/../../etc/passwd": path with a .. component
    layer entry "a": hard link to ../../etc/passwd, which leads out of the image
    layer entry "a": hard link to /etc/passwd, which does not exist
    layer entry "a": hard link to d, which is a directory
    layer entry "a": hard link to /, which is a directory
    layer entry "a\x00b": path with a NUL byte
    layer entry "a": path with a NUL byte
    layer entry "a": symbolic link without a target
    layer entry "": empty path
    layer entry "./": empty path
    layer entry "line\nbreak/..": path with a .. component
    layer entry "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…": name longer than 255 bytes
    layer entry "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/…": path longer than 4096 bytes
    layer entry "a": path longer than 4096 bytes
    layer entry "a/f": more than 40 symbolic links on the way
    layer entry ".wh.": whiteout of nothing
    layer entry "a/.wh...": whiteout of nothing
    layer entry "dev/x": character device 0/0, which overlayfs takes for a deleted file
    layer entry "dev/x": device number 4096:0 out of range
    layer entry "odd": unsupported entry type 'V'
    layer entry "a": extended attributes larger than 65536 bytes
    layer entry "a": invalid uid
    layer entry "": invalid PAX mtime
    layer entry "a": invalid map of a sparse file
    "#);
}

#[test]
fn archives_that_are_damaged() {
    let whole = Layer::new().file("first", [1; 5000]).file("second", [2; 5000]).finish();
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..1].copy_from_slice(b"a");
    header.set_size(10);
    header.as_old_mut().size = *b"99999999999\0";
    let huge_extension = {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(1 << 30);
        Layer::new().raw(header, "").finish()
    };
    let negative = {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..1].copy_from_slice(b"a");
        header.as_old_mut().size = [0xff; 12];
        Layer::new().raw(header, "").finish()
    };
    let packed = gzip(&whole);
    let zstd = zstd::encode_all(&whole[..], 1).unwrap();
    let lines: Vec<_> = [
        whole[..700].to_vec(),
        whole[..6000].to_vec(),
        vec![b'x'; 512],
        Layer::new().raw(header, "").finish(),
        huge_extension,
        negative,
        packed[..packed.len() - 12].to_vec(),
        packed[..20].to_vec(),
        [&packed[..packed.len() - 8], &[0; 8]].concat(),
        zstd[..zstd.len() - 5].to_vec(),
        b"\x1f\x8bnot gzip at all".to_vec(),
    ]
    .into_iter()
    .map(refused)
    .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    layer tar ends early, within "first"
    layer tar ends early, at byte 6000
    not a tar header at byte 0 of the layer: wrong checksum
    layer entry "a": invalid size
    layer entry "": extension header larger than 1048576 bytes
    layer entry "a": invalid size
    cannot read layer: incomplete deflate stream
    cannot read layer: incomplete deflate stream
    cannot read layer: corrupt gzip stream does not have a matching checksum
    cannot read layer: incomplete frame
    cannot read layer: invalid gzip header
    "#);
}

#[test]
fn more_than_the_limits() {
    let zeros = gzip(&vec![0; 64 << 20]);
    let limits = Limits { unpacked_bytes: 1 << 20, entries: 100, metadata_bytes: 50_000, ..Limits::default() };
    let many = |name: &str| (0..101).fold(Layer::new(), |layer, n| layer.file(format!("{name}{n}"), ""));
    let sparse = Layer::new()
        .pax(&[("GNU.sparse.realsize".into(), b"999999999999999".to_vec()), ("GNU.sparse.map".into(), b"0,0".to_vec())])
        .file("sparse", "");
    let lines: Vec<_> = [
        gzip(&Layer::new().file("bomb", vec![0; 64 << 20]).finish()),
        [Layer::new().file("f", "").finish(), vec![0; 2 << 20]].concat(),
        zeros,
        sparse.finish(),
        many("f").finish(),
        many(&"d/".repeat(101)).finish(),
        (0..60).fold(Layer::new(), |layer, n| layer.symlink(format!("s{n}"), "t".repeat(1000))).finish(),
    ]
    .into_iter()
    .map(|layer| refused_within(limits.clone(), layer))
    .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    image exceeds the limit of 1048576 bytes of unpacked layers
    image exceeds the limit of 1048576 bytes of unpacked layers
    image exceeds the limit of 1048576 bytes of unpacked layers
    image exceeds the limit of 1048576 bytes of unpacked layers
    image exceeds the limit of 100 files
    image exceeds the limit of 100 files
    image exceeds the limit of 50000 bytes of metadata
    ");
}

#[test]
fn more_than_erofs_can_address() {
    let sparse = |size: u64| {
        let size = size.to_string().into_bytes();
        [("GNU.sparse.realsize".into(), size), ("GNU.sparse.map".into(), b"0,0".to_vec())]
    };
    let layer = Layer::new().pax(&sparse(17 << 40)).file("sparse", "").file("after", "data");
    let limits = Limits { unpacked_bytes: 1 << 60, ..Limits::default() };
    assert_eq!(refused_within(limits, layer.finish()), "image exceeds the limit of 4294967295 blocks of 4 KiB");
}

#[test]
fn a_reader_that_fails_is_the_error() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("connection lost"))
        }
    }
    let result = crate::image::convert_with(Limits::default(), |converter| Ok(vec![converter.apply_layer(Broken)?]));
    assert_eq!(line(&result.err().unwrap()), "cannot read layer: connection lost");
}

#[test]
fn a_full_disk_is_the_error_wherever_it_shows() {
    let on_full_disk = |layer: &[u8]| -> Result<_, ConvertError> {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut converter = Converter::create(full, Limits::default())?;
        converter.apply_layer(layer)?;
        converter.finish()
    };
    for size in [10, 10 << 20] {
        let error = on_full_disk(&Layer::new().file("f", vec![1; size]).finish()).unwrap_err();
        assert_eq!(line(&error), "cannot write image: No space left on device (os error 28)");
    }
}

#[test]
fn a_chain_of_links_does_not_fan_out() {
    let layer = (0..30).fold(Layer::new().dir("l0", 0o755), |layer, n| {
        let link = format!("l{n}/../");
        layer.symlink(format!("l{}", n + 1), link.repeat(200))
    });
    let error = refused(layer.file("l30/f", "").finish());
    assert!(error.contains("more than 40 symbolic links") || error.contains("longer than 4096"), "{error}");
}

#[test]
fn a_tree_deeper_than_any_path_is_no_problem() {
    // Each link leads 1000 directories further down; removing all of it must not take the stack with it.
    let step = "d/".repeat(1000);
    let mut layer = Layer::new();
    let mut at = String::new();
    for n in 0..30 {
        let link = format!("l{n}");
        layer = layer.dir(format!("{at}{step}"), 0o755).symlink(&link, format!("{at}{step}"));
        at = format!("{link}/");
    }
    let limits = Limits { link_depth: 1000, path_len: 100_000, ..Limits::default() };
    let remove = Layer::new().file(".wh.d", "").finish();
    convert_within(limits.clone(), [layer.finish(), remove]).unwrap();
    assert!(convert([b"".to_vec()]).is_ok());
}
