//! Archives that nobody should import: each is refused with one line, and leaves nothing.

use std::{fmt::Write as _, fs::File};

use matchlock_model::Digest;
use matchlock_testkit::{ImageSpec, LayerTar, OciLayout};

use crate::{
    archives::{Save, digest, import, layer},
    support::{Home, line, reference, small},
};

type Archives = Vec<(&'static str, Vec<u8>)>;

fn good(layer: &[u8]) -> Save {
    Save::new().member("l.tar", layer)
}

fn only(name: &str, content: &[u8]) -> Vec<u8> {
    LayerTar::new().file(name, 0o644, content).unwrap().finish().unwrap()
}

/// What is no tar, or none that may be unpacked.
fn broken_tars() -> Archives {
    let layer = &layer()[..];
    let whole = good(layer).image("a:1", &["l.tar"], &[layer]).finish();
    let raw_name = |name: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(0);
        header.set_cksum();
        [header.as_bytes(), &whole[..]].concat()
    };
    let mut fifo = tar::Header::new_gnu();
    fifo.set_entry_type(tar::EntryType::Fifo);
    fifo.set_size(0);
    fifo.set_cksum();
    let mut many = tar::Builder::new(Vec::new());
    for number in 0..10_001 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        many.append_data(&mut header, number.to_string(), &b""[..]).unwrap();
    }
    vec![
        ("empty", vec![]),
        ("text", b"this is no tar archive at all\n".repeat(100)),
        ("xz", b"\xfd7zXZ\0rest".to_vec()),
        ("gzip cut short", b"\x1f\x8b\x08\0\0\0\0\0".to_vec()),
        ("cut within a layer", whole[..1500].to_vec()),
        ("cut before manifest.json", whole[..512 + 1024 + layer.len().next_multiple_of(512)].to_vec()),
        ("dot dot", raw_name(b"../../etc/passwd")),
        ("absolute", raw_name(b"/etc/passwd")),
        ("not UTF-8", raw_name(b"\xff\xfe")),
        ("fifo", [fifo.as_bytes(), &whole[..]].concat()),
        ("too many members", many.into_inner().unwrap()),
        ("no image", only("hello", b"x")),
        ("old Docker", only("repositories", b"{}")),
    ]
}

/// Tars whose documents are broken, or lie.
fn broken_images() -> Archives {
    let layer = &layer()[..];
    let good = || good(layer);
    let other = only("x", b"x");
    let no_config = format!("{}.json", "a".repeat(64));
    let foreign = serde_json::json!({"architecture": "s390x", "rootfs": {"diff_ids": [digest(layer).to_string()]}});
    let mut named = OciLayout::new().unwrap();
    for name in ["one:1", "two:1"] {
        named.add(&ImageSpec { name: Some(name.to_owned()), ..small(name) }).unwrap();
    }
    let damaged_oci = OciLayout::of(&small("x")).unwrap();
    let index = std::fs::read_to_string(damaged_oci.path().join("index.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&index).unwrap();
    let manifest: Digest = manifest["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    let text = std::fs::read_to_string(damaged_oci.blob_path(&manifest)).unwrap();
    std::fs::write(damaged_oci.blob_path(&manifest), text + " ").unwrap();

    vec![
        ("manifest too large", only("manifest.json", &vec![b' '; (4 << 20) + 1])),
        ("manifest no JSON", only("manifest.json", b"{\"a\":")),
        ("empty list", Save::new().finish()),
        ("missing layer", good().image("a:1", &["other.tar"], &[layer]).finish()),
        ("missing config", good().listed("nothing.json", "a:1", &["l.tar"]).finish()),
        ("layer outside", good().image("a:1", &["../../l.tar"], &[layer]).finish()),
        ("link outside", good().link("m.tar", "../../l.tar").image("a:1", &["m.tar"], &[layer]).finish()),
        ("link to itself", good().link("m.tar", "m.tar").image("a:1", &["m.tar"], &[layer]).finish()),
        ("wrong layer", good().image("a:1", &["l.tar"], &[&other]).finish()),
        (
            "wrong config",
            good().member(&format!("{}.json", "a".repeat(64)), b"{}").listed(&no_config, "a:1", &["l.tar"]).finish(),
        ),
        ("layer count", good().image("a:1", &["l.tar", "l.tar"], &[layer]).finish()),
        ("no layers", good().image("a:1", &[], &[]).finish()),
        ("layer is text", good().member("t", &[b't'; 600]).image("a:1", &["t"], &[&[b't'; 600]]).finish()),
        ("two images", good().image("a:1", &["l.tar"], &[layer]).image("b:1", &["l.tar"], &[layer]).finish()),
        (
            "foreign",
            good().member("c.json", foreign.to_string().as_bytes()).listed("c.json", "a:1", &["l.tar"]).finish(),
        ),
        ("two names in an index", named.to_tar().unwrap()),
        ("damaged OCI manifest", damaged_oci.to_tar().unwrap()),
    ]
}

#[test]
fn what_is_wrong_with_an_archive_is_one_line_and_leaves_nothing() {
    let home = Home::new();
    let mut lines = String::new();
    for (what, archive) in [broken_tars(), broken_images()].concat() {
        let error = import(&home, "app", &archive[..]).map(|image| image.tag).unwrap_err();
        let on_disk = home.file("on-disk");
        std::fs::write(&on_disk, &archive).unwrap();
        let same = home.cache().import_file(File::open(&on_disk).unwrap(), &reference("app"), &()).unwrap_err();
        assert_eq!(line(&error), line(&same), "{what}: a file and a pipe differ");
        writeln!(lines, "{what}: {}", line(&error)).unwrap();
        assert!(home.files().is_empty(), "{what} leaves {:?}", home.files());
    }
    assert!(home.cache().list().unwrap().is_empty());
    insta::assert_snapshot!(lines, @r#"
    empty: tarball: the input is empty
    text: tarball: the input is not a tar archive (its first block is no tar header)
    xz: tarball: the input is not a tar archive (it is compressed with xz; pipe it through xz -d)
    gzip cut short: tarball: cannot read the archive: unexpected end of file
    cut within a layer: tarball: the archive ends early, within "l.tar"
    cut before manifest.json: tarball: it has neither manifest.json nor index.json; it is cut short, or not from docker save or skopeo copy … oci-archive:FILE
    dot dot: tarball: archive member "../../etc/passwd" has a name that leaves the archive
    absolute: tarball: archive member "/etc/passwd" has a name that leaves the archive
    not UTF-8: tarball: archive member "��" has a name that leaves the archive
    fifo: tarball: archive member "" is neither file, folder nor link
    too many members: tarball: the archive has more than 10000 members
    no image: tarball: it has neither manifest.json nor index.json; it is cut short, or not from docker save or skopeo copy … oci-archive:FILE
    old Docker: tarball: it was saved by a Docker older than 1.10; load it into a current Docker and save it again
    manifest too large: tarball: manifest.json has 4194305 bytes, more than the limit of 4194304
    manifest no JSON: tarball: manifest.json is not valid JSON of its kind: invalid type: map, expected a sequence at line 1 column 0
    empty list: tarball: it has neither manifest.json nor index.json; it is cut short, or not from docker save or skopeo copy … oci-archive:FILE
    missing layer: tarball: other.tar is missing from the archive; it may be cut short
    missing config: tarball: nothing.json is missing from the archive; it may be cut short
    layer outside: tarball: archive member "../../l.tar" has a name that leaves the archive
    link outside: tarball: archive member "m.tar" has a name that leaves the archive
    link to itself: tarball: archive member "m.tar" is a link in a circle
    wrong layer: extract image: layer 1 has digest sha256:2925223b905e76f449bda5c0fe572140f6ac2ddab06ed8e2d18c3dd3c31efc09 unpacked, expected sha256:b211ab0da08a4eacf578edad49270f203f810cba2dbc767b77a761e7f66acd85
    wrong config: tarball: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.json has digest sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a, expected sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    layer count: tarball: the configuration lists 1 layers and the manifest 2
    no layers: tarball: no layers
    layer is text: extract image: layer 1: not a tar header at byte 0 of the layer: wrong checksum
    two images: tarball: it holds 2 images (a:1, b:1); save one of them alone
    foreign: tarball: the image is for linux/s390x, and this machine runs linux/amd64
    two names in an index: tarball: it holds 2 images (one:1, two:1); save one of them alone
    damaged OCI manifest: tarball: blobs/sha256/93c90dde0f6a3b22fc3f7166c7fd79871e3de0ebd1574685ca3adbd31f9333c0 has digest sha256:9fed77225781b389750867533772afcbcaf91187d69a8ccb372a778847738928, expected sha256:93c90dde0f6a3b22fc3f7166c7fd79871e3de0ebd1574685ca3adbd31f9333c0
    "#);
}
