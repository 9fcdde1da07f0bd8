//! Who a process is.

use serde::{Deserialize, Serialize};

/// A process on this host: its pid alone may be another's tomorrow, so it is named together with its start time.
///
/// `start_time` is in clock ticks since boot (field 22 of `/proc/<pid>/stat`, proc(5)). Two boots can repeat a pair,
/// so records that outlive a boot also carry `boot_id` (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: i32,
    /// Clock ticks between boot and the process's start.
    pub start_time: u64,
    /// The boot it was started in.
    pub boot_id: String,
}
