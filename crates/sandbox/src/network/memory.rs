//! Keeping a process's memory to itself.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on neither a core dump nor another process of the same user gets at this process's memory
/// (`PR_SET_DUMPABLE(2const)`). To be called before it reads a secret; of those that it was started with, as soon as they are
/// found. What it starts has no core dumps, but is its own master
/// otherwise.
///
/// `/proc/<pid>` belongs to root then: this process still finds everything below `/proc/self`, but writes nothing there, and
/// its children do not find its descriptors.
///
/// # Errors
/// If the kernel refuses.
pub fn keep_memory_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
