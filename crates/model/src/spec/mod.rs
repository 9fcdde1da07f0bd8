//! What a sandbox is to be: validated, defaults filled in, paths absolute. Made once, at the edge, from what was typed.
//!
//! Its JSON form is the `config` object of `matchlock get` and of the `vms.config_json` column.

mod network;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

pub use self::network::{AddHost, Network, NetworkMode, SecretSpec};
use crate::SandboxId;

/// A sandbox as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its id.
    pub id: SandboxId,
    /// The image reference or local tag, as typed.
    pub image: String,
    /// Commands keep capabilities and system calls that others lose.
    #[serde(default)]
    pub privileged: bool,
    /// How much machine it gets.
    pub resources: Resources,
    /// How it is connected and what it is called.
    pub network: Network,
    /// Environment of every command, over the image's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Disk images of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_disks: Vec<ExtraDisk>,
    /// The image's configuration after the user's overrides.
    #[serde(default)]
    pub image_config: ImageConfig,
}

/// How much machine a sandbox gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Processor time; the guest has this many vCPUs, rounded up.
    pub cpus: CpuCount,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Size of the writable layer in MiB.
    pub disk_size_mb: u32,
    /// Seconds until the sandbox is ended; 0 means never.
    #[serde(default)]
    pub timeout_seconds: u64,
    /// Milliseconds that its processes get between `SIGTERM` and `SIGKILL` at the end.
    #[serde(default)]
    pub graceful_shutdown_ms: u64,
}

/// One `--disk`: an ext4 image of the user's, mounted in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraDisk {
    /// The image on the host, absolute. JSON has no bytes that are not UTF-8: the record shows others in their place.
    #[serde(serialize_with = "as_shown")]
    pub host_path: PathBuf,
    /// Where the guest mounts it, absolute.
    pub guest_mount: String,
    /// The guest cannot write to it.
    #[serde(default)]
    pub readonly: bool,
}

fn as_shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The parts of an OCI image configuration that a sandbox obeys (OCI image-spec 1.1, `config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `uid`, `uid:gid`, `name` or `name:group`; empty means root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Working folder; empty means `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// What every command is given to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command where none is typed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The image's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// A positive, finite amount of processors; fractions are enforced as a quota in the guest.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct CpuCount(f64);

/// A value that no sandbox can have.
#[derive(Debug, Error, PartialEq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SpecError {
    #[error("--cpus must be a finite number > 0")]
    Cpus,
    #[error("--memory must be at least {minimum} MiB, got {given}")]
    Memory { given: u32, minimum: u32 },
    #[error("--disk-size must be at least {minimum} MiB, got {given}")]
    DiskSize { given: u32, minimum: u32 },
}

impl CpuCount {
    /// One processor.
    pub const ONE: Self = Self(1.0);

    /// Whole virtual processors needed to give this much time.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, bounded by the saturating cast"
    )]
    pub fn vcpus(self) -> u32 {
        self.0.ceil() as u32
    }

    /// The share as a number of processors.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Microseconds of processor time per 100 ms, where less than whole vCPUs were asked for (`cpu.max`,
    /// kernel `Documentation/admin-guide/cgroup-v2.rst`).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, bounded by the saturating cast"
    )]
    pub fn quota(self) -> Option<u32> {
        (self.0.fract() != 0.0).then(|| ((self.0 * 100_000.0) as u32).max(1000))
    }
}

impl TryFrom<f64> for CpuCount {
    type Error = SpecError;

    fn try_from(count: f64) -> Result<Self, SpecError> {
        if count.is_finite() && count > 0.0 { Ok(Self(count)) } else { Err(SpecError::Cpus) }
    }
}

impl From<CpuCount> for f64 {
    fn from(count: CpuCount) -> Self {
        count.0
    }
}

impl Resources {
    /// The least memory, in MiB, in which the guest kernel, its initramfs and the agent come up.
    pub const MIN_MEMORY_MB: u32 = 96;
    /// The smallest writable layer, in MiB, that is of any use.
    pub const MIN_DISK_SIZE_MB: u32 = 16;

    /// Refuse amounts with which nothing can run.
    ///
    /// # Errors
    /// The first amount that is too small.
    pub const fn check(&self) -> Result<(), SpecError> {
        if self.memory_mb < Self::MIN_MEMORY_MB {
            return Err(SpecError::Memory { given: self.memory_mb, minimum: Self::MIN_MEMORY_MB });
        }
        if self.disk_size_mb < Self::MIN_DISK_SIZE_MB {
            return Err(SpecError::DiskSize { given: self.disk_size_mb, minimum: Self::MIN_DISK_SIZE_MB });
        }
        Ok(())
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: CpuCount::ONE, memory_mb: 512, disk_size_mb: 5120, timeout_seconds: 0, graceful_shutdown_ms: 0 }
    }
}

/// The argument vector to run: the entrypoint followed by what was typed, or by the image's command where nothing was.
///
/// `--entrypoint` drops the image's command, as Docker does: it was written for the other entrypoint.
#[must_use]
pub fn compose_command(config: &ImageConfig, entrypoint: Option<&str>, typed: &[OsString]) -> Vec<OsString> {
    let (entrypoint, default_command): (&[String], &[String]) = match entrypoint {
        None => (&config.entrypoint, &config.cmd),
        Some("") => (&[], &[]),
        Some(program) => (&[program.to_owned()], &[]),
    };
    let command: Vec<_> = if typed.is_empty() { words(default_command) } else { typed.to_vec() };
    [words(entrypoint), command].concat()
}

fn words(list: &[String]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn commands_compose_as_docker_does() {
        let image =
            ImageConfig { entrypoint: vec!["/e".to_owned()], cmd: vec!["a".to_owned()], ..ImageConfig::default() };
        assert_eq!(compose_command(&image, None, &[]), words(&["/e", "a"]));
        assert_eq!(compose_command(&image, None, &words(&["b"])), words(&["/e", "b"]));
        assert_eq!(compose_command(&image, Some("/x"), &[]), words(&["/x"]));
        assert_eq!(compose_command(&image, Some("/x"), &words(&["b"])), words(&["/x", "b"]));
        assert_eq!(compose_command(&image, Some(""), &words(&["b"])), words(&["b"]));
    }

    #[test]
    fn fractions_of_processors_round_up_and_get_a_quota() {
        let half = CpuCount::try_from(1.5).unwrap();
        assert_eq!((half.vcpus(), half.quota()), (2, Some(150_000)));
        assert_eq!((CpuCount::ONE.vcpus(), CpuCount::ONE.quota()), (1, None));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(CpuCount::try_from(bad).is_err());
        }
    }
}
