//! A home for measurements, and samples of times.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::images;

/// The image that is started: a whole Debian userland.
pub(super) const IMAGE: &str = "bench/debian";

/// The release binary with a home of its own.
pub(super) struct Home {
    path: PathBuf,
    binary: PathBuf,
}

impl Home {
    /// The home at `path`, with a kernel and [`IMAGE`] in it.
    pub(super) fn new(path: &Path, binary: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let home = Self { path: path.to_owned(), binary: binary.to_owned() };
        home.succeed(&["kernel", "pull"])?;
        if !home.succeed(&["image", "ls"])?.contains(IMAGE) {
            let archive = fs::File::open(images::debian()?)?;
            let status = home.command(&["image", "import", IMAGE]).stdin(archive).status()?;
            ensure!(status.success(), "the image cannot be imported");
        }
        Ok(home)
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
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

    /// How long a command takes that must succeed.
    pub(super) fn time(&self, arguments: &[&str]) -> Result<Duration> {
        let begin = Instant::now();
        let status = self.command(arguments).status()?;
        let took = begin.elapsed();
        ensure!(status.success(), "{arguments:?}: {status}");
        Ok(took)
    }
}

/// Sorted samples.
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    /// Of these times.
    pub(super) fn new(mut times: Vec<Duration>) -> Result<Self> {
        ensure!(!times.is_empty(), "no samples");
        times.sort_unstable();
        Ok(Self(times))
    }

    /// The time below which `percent` of them are.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len()) - 1;
        self.0[index]
    }

    /// `p50 … ms, p90 … ms`.
    pub(super) fn shown(&self) -> String {
        format!("p50 {} ms, p90 {} ms", self.percentile(50).as_millis(), self.percentile(90).as_millis())
    }
}
