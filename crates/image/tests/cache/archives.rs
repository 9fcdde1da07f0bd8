//! Importing what `docker save`, `podman save` and skopeo write.

use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
    process::Stdio,
};

use matchlock_image::{Image, ImageError, Source};
use matchlock_model::Digest;
use matchlock_testkit::{Compression, ImageSpec, LayerTar, OciLayout, run, tool};
use sha2::{Digest as _, Sha256};

use crate::support::{Home, line, reference, small, text};

/// `layout` as skopeo packs it; `kind` is a transport such as `docker-archive`.
fn skopeo(layout: &OciLayout, home: &Home, kind: &str) -> PathBuf {
    let archive = home.file(kind);
    let name = if kind == "docker-archive" { ":some/name:1" } else { "" };
    let mut skopeo = tool("skopeo", "skopeo").unwrap();
    skopeo.args(["--insecure-policy", "copy", "--quiet"]).arg(format!("oci:{}", layout.path().display()));
    run(skopeo.arg(format!("{kind}:{}{name}", archive.display()))).unwrap();
    archive
}

pub(crate) fn import(home: &Home, tag: &str, input: impl Read) -> Result<Image, ImageError> {
    home.cache().import(input, &reference(tag), &())
}

fn two_layers() -> ImageSpec {
    let layer = |name: &str| LayerTar::new().file(name, 0o644, name.as_bytes()).unwrap().finish().unwrap();
    let mut image = ImageSpec::new(vec![layer("one"), layer("two")]);
    image.config = serde_json::json!({"User": "app", "Cmd": ["a"]});
    image
}

#[test]
fn both_kinds_of_archive_give_the_same_image_which_is_kept_once() {
    let home = Home::new();
    let layout = OciLayout::of(&two_layers()).unwrap();
    let docker = skopeo(&layout, &home, "docker-archive");
    let oci = skopeo(&layout, &home, "oci-archive");
    let from_pipe = import(&home, "docker:1", File::open(&docker).unwrap()).unwrap();
    assert_eq!((from_pipe.config.user.as_str(), &from_pipe.config.cmd[..]), ("app", &["a".to_owned()][..]));
    assert_eq!((text(&from_pipe, "one"), text(&from_pipe, "two")), ("one".to_owned(), "two".to_owned()));
    for (tag, archive) in [("docker:2", &docker), ("oci:1", &oci)] {
        let image = home.cache().import_file(File::open(archive).unwrap(), &reference(tag), &()).unwrap();
        assert_eq!(image.content, from_pipe.content);
    }
    assert_eq!(import(&home, "oci:2", File::open(&oci).unwrap()).unwrap().content, from_pipe.content);
    assert_eq!(home.files(), ["blobs/….erofs"]);
    assert!(home.cache().list().unwrap().iter().all(|row| row.image.source == Source::Import));
}

#[test]
fn compressed_archives_and_a_file_that_is_read_from_its_middle_are_taken() {
    let home = Home::new();
    let mut image = two_layers();
    (image.layers[0].1, image.layers[1].1) = (Compression::Zstd, Compression::Plain);
    let tar = OciLayout::of(&image).unwrap().to_tar().unwrap();
    let plain = import(&home, "plain", &tar[..]).unwrap();
    for (program, package) in [("gzip", "gzip"), ("zstd", "zstd")] {
        let mut child = tool(program, package).unwrap();
        let mut child = child.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = std::thread::spawn({
            let tar = tar.clone();
            move || stdin.write_all(&tar).unwrap()
        });
        assert_eq!(import(&home, program, child.stdout.take().unwrap()).unwrap().content, plain.content);
        feeder.join().unwrap();
        child.wait().unwrap();
    }
    std::fs::write(home.file("tar"), [b"something else", &tar[..]].concat()).unwrap();
    let mut file = File::open(home.file("tar")).unwrap();
    file.read_exact(&mut [0; 14]).unwrap();
    std::fs::remove_file(&plain.rootfs).unwrap();
    let image = home.cache().import_file(file, &reference("file"), &()).unwrap();
    assert_eq!((text(&image, "two"), image.content), ("two".to_owned(), plain.content));
}

#[test]
fn an_index_within_the_index_leads_to_the_variant_for_this_machine() {
    let home = Home::new();
    let mut layout = OciLayout::new().unwrap();
    layout.add(&ImageSpec { architecture: "s390x".to_owned(), ..small("foreign") }).unwrap();
    let digest = layout.add(&small("ours")).unwrap();
    layout.nest("app:1").unwrap();
    let image = import(&home, "app:1", &layout.to_tar().unwrap()[..]).unwrap();
    assert_eq!((text(&image, "file").as_str(), image.digest), ("ours", digest));
}

#[test]
fn layers_that_are_links_are_found_within_the_archive() {
    let (home, layer) = (Home::new(), layer());
    let tar = Save::new()
        .member("./aa/layer.tar", &layer)
        .link("bb/layer.tar", "../aa/layer.tar")
        .image("old/docker:1", &["aa/layer.tar", "bb/layer.tar"], &[&layer, &layer])
        .finish();
    let image = import(&home, "app", &tar[..]).unwrap();
    assert_eq!(text(&image, "file"), "layer");
}

#[test]
fn names_that_registries_would_refuse_are_refused_here_too() {
    let home = Home::new();
    let pinned = format!("app@{}", digest(b""));
    let error = import(&home, &pinned, &b""[..]).unwrap_err();
    assert_eq!(line(&error), format!("a local name has no digest: {pinned:?}"));
}

/// The members of an archive of `docker save`: `manifest.json` last, as Docker writes it.
pub(crate) struct Save {
    tar: LayerTar,
    images: Vec<serde_json::Value>,
}

impl Save {
    pub(crate) fn new() -> Self {
        Self { tar: LayerTar::new(), images: Vec::new() }
    }

    pub(crate) fn member(mut self, name: &str, bytes: &[u8]) -> Self {
        self.tar = self.tar.file(name, 0o644, bytes).unwrap();
        self
    }

    pub(crate) fn link(mut self, name: &str, target: &str) -> Self {
        self.tar = self.tar.symlink(name, target).unwrap();
        self
    }

    /// List an image with these layer members, whose content is `content`.
    pub(crate) fn image(self, tag: &str, layers: &[&str], content: &[&[u8]]) -> Self {
        let diff_ids: Vec<String> = content.iter().map(|tar| digest(tar).to_string()).collect();
        let config = serde_json::json!({"os": "linux", "rootfs": {"diff_ids": diff_ids}, "tag": tag}).to_string();
        let name = format!("{}.json", digest(config.as_bytes()).hex());
        self.member(&name, config.as_bytes()).listed(&name, tag, layers)
    }

    pub(crate) fn listed(mut self, config: &str, tag: &str, layers: &[&str]) -> Self {
        self.images.push(serde_json::json!({"Config": config, "RepoTags": [tag], "Layers": layers}));
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let list = serde_json::Value::from(self.images.clone()).to_string();
        self.member("manifest.json", list.as_bytes()).tar.finish().unwrap()
    }
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

pub(crate) fn layer() -> Vec<u8> {
    LayerTar::new().file("file", 0o644, b"layer").unwrap().finish().unwrap()
}
