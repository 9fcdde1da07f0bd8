//! `ip link set lo up`, so that `127.0.0.1` and `::1` work with and without a network.

#![expect(unsafe_code, reason = "rustix has no SIOCSIFFLAGS")]

use std::{io, os::fd::AsRawFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

/// Bring the device up; the kernel then adds its addresses by itself.
pub(crate) fn raise() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).map_err(|_| Errno::INVAL)?;
    // SAFETY: SIOCSIFFLAGS (netdevice(7)) reads the `ifreq` that it is handed, which lives until the call returns.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
