//! Flags that say what a sandbox's machine is like; `run` and `warm` share them, for a spare serves only sandboxes of its shape.

use std::time::Duration;

use matchlock_model::{CpuCount, Resources};
use matchlock_sandbox::host_memory_mb;

use crate::{
    error::CliError,
    parse::{self, Toggle as _},
};

/// What a machine is like.
#[derive(Debug, clap::Args)]
pub(crate) struct ShapeArgs {
    /// Virtual processors; a fraction is enforced as a share of time
    #[arg(long, default_value_t = 1.0, value_parser = parse::processors, value_name = "N", allow_negative_numbers = true)]
    cpus: f64,
    /// Memory in MiB
    #[arg(long, default_value_t = 512, value_parser = parse::whole::<u32>("MiB"), value_name = "MIB", allow_negative_numbers = true)]
    memory: u32,
    /// Size of the writable layer in MiB; it takes up only what is written
    #[arg(long, default_value_t = 5120, value_parser = parse::whole::<u32>("MiB"), value_name = "MIB", allow_negative_numbers = true)]
    disk_size: u32,
    /// Let commands keep all capabilities and system calls
    #[arg(long, toggle = false)]
    pub(crate) privileged: bool,
}

impl ShapeArgs {
    /// What this host can give, with how long the sandbox lasts.
    pub(crate) fn resources(&self, timeout_seconds: u64, graceful_shutdown: Duration) -> Result<Resources, CliError> {
        let cpus = CpuCount::try_from(self.cpus).map_err(|error| CliError::failure(error.to_string()))?;
        let host_cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        if cpus.vcpus() > host_cpus {
            return Err(CliError::failure(format!("--cpus must be <= host cpus ({host_cpus})")));
        }
        let host_memory = host_memory_mb();
        if u64::from(self.memory) > host_memory {
            return Err(CliError::failure(format!("--memory must be <= host memory ({host_memory} MiB)")));
        }
        let resources = Resources {
            cpus,
            memory_mb: self.memory,
            disk_size_mb: self.disk_size,
            timeout_seconds,
            graceful_shutdown_ms: u64::try_from(graceful_shutdown.as_millis()).unwrap_or(u64::MAX),
        };
        resources.check().map_err(|error| CliError::failure(error.to_string()))?;
        Ok(resources)
    }
}
