//! Descriptors on the runtime.

#![expect(unsafe_code, reason = "the runtime must be promised that a registered descriptor stays what it is")]

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Have the runtime watch a descriptor that does not block.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor all its life, and here it lives as long as its registration.
    Ok(unsafe { AsyncFd::register(fd)? })
}
