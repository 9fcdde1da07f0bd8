//! A home for measurements, with a kernel and an image in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use matchlock_sandbox::{
    Host,
    image::{ImageCache, RegistryAccess},
};
use matchlock_testkit::images;

/// The image that is started: a whole Debian userland.
pub(super) const IMAGE: &str = "bench/debian";

/// Starts a sandbox, runs the program that the floor runs, and ends.
pub(super) const TRUE: [&str; 5] = ["run", "--image", IMAGE, "--", "true"];

/// The same without a saved guest.
pub(super) const COLD_TRUE: [&str; 6] = ["run", "--cold", "--image", IMAGE, "--", "true"];

/// A program under measurement with a home of its own.
pub(super) struct Home {
    path: PathBuf,
    binary: PathBuf,
}

impl Home {
    /// The home at `path`, empty if it is new.
    pub(super) fn at(path: &Path, binary: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), binary: binary.to_owned() })
    }

    /// The home at `path`, with a kernel and [`IMAGE`] in it.
    pub(super) fn furnished(path: &Path, binary: &Path) -> Result<Self> {
        let home = Self::at(path, binary)?;
        // An earlier measurement may have been interrupted.
        home.succeed(&["kill", "--all"])?;
        home.succeed(&["prune"])?;
        home.succeed(&["kernel", "pull"])?;
        if !home.succeed(&["image", "ls"])?.contains(IMAGE) {
            let archive = fs::File::open(images::debian()?)?;
            let status = home.command(&["image", "import", IMAGE]).stdin(archive).status()?;
            ensure!(status.success(), "the image cannot be imported");
        }
        Ok(home)
    }

    /// A home at `path` in which there has never been anything but the kernel of this one.
    pub(super) fn fresh(&self, path: &Path) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        let fresh = Self::at(path, &self.binary)?;
        fs::create_dir_all(fresh.host().cache.root())?;
        std::os::unix::fs::symlink(self.host().cache.kernels(), fresh.host().cache.kernels())?;
        Ok(fresh)
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The host as it is for a user with this home.
    pub(super) fn host(&self) -> Host {
        Host::new(&self.path, None)
    }

    /// The EROFS file of [`IMAGE`].
    pub(super) fn image(&self) -> Result<PathBuf> {
        let access = RegistryAccess::conventional(&self.path, |_| None);
        let image = ImageCache::open(&self.host().cache, access)?.cached(&IMAGE.parse()?)?;
        Ok(image.context("the image")?.rootfs.path)
    }

    /// A `matchlock` command, quiet.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("HOME", &self.path).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        command
    }

    /// Run a command that must succeed; what it printed.
    pub(super) fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).context("output is text")
    }

    /// Start once as [`TRUE`] does, to be sure that later starts are what they are taken for: a guest continued.
    pub(super) fn warm_up(&self) -> Result<()> {
        let output = self.command(&TRUE).stderr(Stdio::piped()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && !said.contains("starting cold"), "{TRUE:?}: {said}");
        Ok(())
    }

    /// How long a command takes that must succeed.
    pub(super) fn time(&self, arguments: &[&str]) -> Result<Duration> {
        let begin = Instant::now();
        let status = self.command(arguments).status()?;
        let took = begin.elapsed();
        ensure!(status.success(), "{arguments:?}: {status}");
        Ok(took)
    }
}
