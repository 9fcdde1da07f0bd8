//! The TAP itself.

#![expect(unsafe_code, reason = "a TAP is made by an ioctl that rustix does not know")]

use std::os::fd::OwnedFd;

use rustix::{
    fs::{Mode, OFlags, open},
    ioctl::{Updater, ioctl, opcode},
};

use super::Error;

/// `struct ifreq`, as far as it is used here (linux/if.h).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

// linux/if_tun.h. Frames come with a header about checksums and segments, as virtio's do, so that QEMU need not do either.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);

/// Make one with this name, in which `%d` is a number that is free; also returns what it is called.
pub(super) fn make(name: &str) -> Result<(OwnedFd, String), Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = open("/dev/net/tun", flags, Mode::empty()).map_err(Error::opening_tun)?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is 40 bytes long, as this is.
    unsafe { ioctl(&tap, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }
        .map_err(|e| Error::step("make the TAP", &e.into()))?;
    let called = request.name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
    Ok((tap, called))
}
