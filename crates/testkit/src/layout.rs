//! OCI image layouts (image-spec 1.1, "Image Layout") in a temporary folder, made of layers that tests describe.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use matchlock_model::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    Plain,
    /// gzip, as nearly everybody does.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer in the making.
pub struct LayerTar {
    tar: tar::Builder<Vec<u8>>,
}

/// One image of a layout.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// Tars and how they are stored, base first.
    pub layers: Vec<(Vec<u8>, Compression)>,
    /// The `config` object of the image configuration.
    pub config: Value,
    /// The processor that the configuration names.
    pub architecture: String,
    /// What the index calls it.
    pub name: Option<String>,
}

/// An OCI image layout.
pub struct OciLayout {
    dir: TempDir,
    manifests: Vec<Value>,
}

impl LayerTar {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// Add a file of root's.
    ///
    /// # Errors
    /// The path does not fit into a tar.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// Add a folder of root's.
    ///
    /// # Errors
    /// The path does not fit into a tar.
    pub fn folder(mut self, path: &str) -> Result<Self> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        self.tar.append_data(&mut header, path, &[][..])?;
        Ok(self)
    }

    /// Add a symbolic link.
    ///
    /// # Errors
    /// The path does not fit into a tar.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// The finished tar.
    ///
    /// # Errors
    /// None in practice: it is in memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

impl Default for LayerTar {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer with a static shell and its usual names.
///
/// # Errors
/// There is no static busybox to be had.
pub fn busybox_layer() -> Result<Vec<u8>> {
    let busybox = std::fs::read("/bin/busybox").context("run: apt-get install busybox-static")?;
    let mut layer = LayerTar::new().folder("bin")?.file("bin/busybox", 0o755, &busybox)?;
    for name in ["sh", "echo", "cat", "ls", "true", "false", "sleep", "id", "env", "test"] {
        layer = layer.symlink(&format!("bin/{name}"), "busybox")?;
    }
    layer
        .folder("etc")?
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")?
        .file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\n")?
        .folder("tmp")?
        .finish()
}

impl ImageSpec {
    /// An image for this machine, of gzip layers.
    #[must_use]
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            layers: layers.into_iter().map(|tar| (tar, Compression::Gzip)).collect(),
            config: json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}),
            architecture: architecture.to_owned(),
            name: None,
        }
    }
}

impl OciLayout {
    /// A layout without images.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("blobs/sha256"))?;
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { dir, manifests: Vec::new() })
    }

    /// A layout of one image.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn of(image: &ImageSpec) -> Result<Self> {
        let mut layout = Self::new()?;
        layout.add(image)?;
        Ok(layout)
    }

    /// Add an image; its manifest's digest.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn add(&mut self, image: &ImageSpec) -> Result<Digest> {
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for (tar, compression) in &image.layers {
            diff_ids.push(digest(tar).to_string());
            let (blob, suffix) = match compression {
                Compression::Plain => (tar.clone(), ""),
                Compression::Gzip => (gzip(tar)?, "+gzip"),
                Compression::Zstd => (zstd::encode_all(&tar[..], 3)?, "+zstd"),
            };
            layers.push(self.blob(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &blob)?);
        }
        let config = json!({
            "architecture": image.architecture, "os": "linux", "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        let manifest = manifest.to_string();
        let mut descriptor = self.blob(kind, manifest.as_bytes())?;
        descriptor["platform"] = json!({"os": "linux", "architecture": image.architecture});
        if let Some(name) = &image.name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.manifests.push(descriptor);
        self.write_index(&self.manifests)?;
        Ok(digest(manifest.as_bytes()))
    }

    /// Put all images so far into an index of their own, and leave that as the layout's only entry, called `name`.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn nest(&mut self, name: &str) -> Result<()> {
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": self.manifests});
        let mut descriptor = self.blob(kind, index.to_string().as_bytes())?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests = vec![descriptor];
        self.write_index(&self.manifests)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A blob's file.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("blobs/sha256").join(digest.hex())
    }

    /// The folder as one tar.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn to_tar(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all(".", self.path())?;
        Ok(tar.into_inner()?)
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        std::fs::write(self.blob_path(&digest), bytes)?;
        Ok(json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()}))
    }

    fn write_index(&self, manifests: &[Value]) -> Result<()> {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        std::fs::write(self.dir.path().join("index.json"), index.to_string())?;
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}
