//! The host's entropy and clock, before anything of the user's runs.
//!
//! Two sandboxes restored from one template hold the same state of the kernel's random generator: this is what makes them
//! differ.

#![expect(unsafe_code, reason = "the generator is fed by ioctl, which rustix does not know")]

use std::os::fd::AsRawFd;

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    time::{ClockId, Timespec, clock_settime},
};

use crate::reap::last_errno;

/// `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)` (linux/random.h).
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// `struct rand_pool_info` (linux/random.h) with its bytes.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; 32],
}

/// Mix `entropy` into the kernel's generator, and make the generator start anew from it.
pub(crate) fn mix(entropy: [u8; 32]) -> Result<(), Errno> {
    let device = open("/dev/urandom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let pool = Pool { entropy_bits: 256, size: 32, bytes: entropy };
    // SAFETY: random(4): the first call reads the structure, whose size is in it; the second takes no argument.
    let done = unsafe {
        libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) == 0
            && libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) == 0
    };
    if done { Ok(()) } else { Err(last_errno()) }
}

/// Set the clock to nanoseconds since the Unix epoch.
pub(crate) fn set_clock(nanoseconds: u64) -> Result<(), Errno> {
    const SECOND: u64 = 1_000_000_000;
    let seconds = i64::try_from(nanoseconds / SECOND).map_err(|_| Errno::INVAL)?;
    let rest = i64::try_from(nanoseconds % SECOND).map_err(|_| Errno::INVAL)?;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: rest })
}
