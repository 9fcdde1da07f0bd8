//! Where files live. Every path that outlives a process is named here and nowhere else.

use std::path::{Path, PathBuf};

use crate::{Digest, SandboxId};

/// `~/.matchlock`: state that must not be lost while sandboxes live.
#[derive(Clone, Debug)]
pub struct StateLayout {
    root: PathBuf,
}

impl StateLayout {
    /// How the name of a socket of [`Self::warm`] ends.
    pub const WARM_SOCKET: &str = "sock";

    /// The layout below the home folder `home`.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self { root: home.join(".matchlock") }
    }

    /// `~/.matchlock` itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database of sandboxes.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    /// The folder that holds one folder per sandbox.
    #[must_use]
    pub fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    /// The folder of the sockets on which processes that keep spare sandboxes answer.
    #[must_use]
    pub fn warm(&self) -> PathBuf {
        self.root.join("warm")
    }

    /// The socket of such a process, and what it is called before anybody is to use it.
    #[must_use]
    pub fn warm_socket(&self, pid: u32) -> [PathBuf; 2] {
        [Self::WARM_SOCKET, "new"].map(|kind| self.warm().join(format!("{pid}.{kind}")))
    }

    /// What belongs to one sandbox.
    #[must_use]
    pub fn vm(&self, id: &SandboxId) -> VmLayout {
        VmLayout { dir: self.vms().join(id.as_str()) }
    }
}

/// `~/.matchlock/vms/<id>`: what belongs to one sandbox.
#[derive(Clone, Debug)]
pub struct VmLayout {
    dir: PathBuf,
}

impl VmLayout {
    /// The folder itself, mode 0700.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The guest's console, the agent's log and a copy of the command's output.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("vm.log")
    }

    /// The writable layer, a sparse ext4 image.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    /// The Unix socket on which the supervisor serves `exec`.
    #[must_use]
    pub fn exec_socket(&self) -> PathBuf {
        self.dir.join("exec.sock")
    }

    /// The Unix socket on which the supervisor takes changes of the network.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// What the guest did on the network, one JSON object a line.
    #[must_use]
    pub fn network_log(&self) -> PathBuf {
        self.dir.join("network.jsonl")
    }
}

/// `~/.cache/matchlock`: what can be made again, and may be deleted while nothing runs; except for the named volumes in
/// [`volumes`](CacheLayout::volumes), which are data of the user's.
#[derive(Clone, Debug)]
pub struct CacheLayout {
    root: PathBuf,
}

impl CacheLayout {
    /// The layout below the home folder `home`.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self { root: home.join(".cache/matchlock") }
    }

    /// `~/.cache/matchlock` itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One folder per kernel version.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// What was found out about this host and its programs.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.root.join("host")
    }

    /// The lock that starting guests shares and removing what they start from excludes.
    #[must_use]
    pub fn start_lock(&self) -> PathBuf {
        self.host().join("start.lock")
    }

    /// Assembled initramfs files, named by the digest of what is in them.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.root.join("initramfs")
    }

    /// Saved guests, one folder per shape of machine.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// Empty ext4 images, one per size, that writable layers are copied from.
    #[must_use]
    pub fn uppers(&self) -> PathBuf {
        self.root.join("uppers")
    }

    /// Named volumes: data of the user's, here only because this is where they are looked for. Nothing deletes them.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The volume `name`, an ext4 image.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(format!("{name}.ext4"))
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The database of images.
    #[must_use]
    pub fn image_database(&self) -> PathBuf {
        self.images().join("metadata.db")
    }

    /// Where finished images and unfinished ones (`*.tmp`) are.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.images().join("blobs")
    }

    /// The EROFS image with the content digest `digest`.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(format!("{}.erofs", digest.file_stem()))
    }

    /// The lock under which that image is made.
    #[must_use]
    pub fn blob_lock(&self, digest: &Digest) -> PathBuf {
        self.blob(digest).with_extension("lock")
    }

    /// The lock that adding to the image store shares and sweeping it excludes.
    #[must_use]
    pub fn image_lock(&self) -> PathBuf {
        self.images().join("lock")
    }

    /// Compressed layers as registries serve them, `sha256_<hex>`.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.images().join("layers")
    }

    /// The layer whose compressed content has the digest `digest`.
    #[must_use]
    pub fn layer(&self, digest: &Digest) -> PathBuf {
        self.layers().join(digest.file_stem())
    }

    /// What has arrived of that layer so far; locked by whoever downloads it.
    #[must_use]
    pub fn partial_layer(&self, digest: &Digest) -> PathBuf {
        self.layer(digest).with_extension("tmp")
    }
}
