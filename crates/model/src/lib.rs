//! The words every other crate uses: ids, digests, specifications, phases, paths and exit codes.
//!
//! Called by everything; calls nothing. Invariant: no I/O, no clock, no environment, no async. What is here is
//! either plain data or a pure function over it.

mod digest;
mod exit;
pub mod guest_files;
mod id;
mod interception;
mod layout;
mod one_line;
mod phase;
mod process;
mod spec;

pub use digest::{Digest, DigestError};
pub use exit::ExitStatus;
pub use id::{IdError, SandboxId};
pub use interception::{BodyReplacement, Interception, InterceptionRule};
pub use layout::{CacheLayout, StateLayout, VmLayout};
pub use one_line::{one_line, printable, printable_json, printable_lines};
pub use phase::{Phase, PhaseError};
pub use process::ProcessIdentity;
pub use spec::{
    AddHost, CpuCount, ExtraDisk, ImageConfig, Network, NetworkMode, Resources, SandboxSpec, SecretSpec, SpecError,
    compose_command,
};
