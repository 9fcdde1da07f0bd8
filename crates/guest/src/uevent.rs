//! The kernel's announcements of devices: what [`crate::boot`] waits on for the port to the host.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, netlink::SocketAddrNetlink, recv, socket_with,
    },
    time::Timespec,
};

/// The kernel's multicast group of uevents (linux/netlink.h: group 1 of `NETLINK_KOBJECT_UEVENT`).
const KERNEL_GROUP: u32 = 1;

/// Subscribed to the kernel's uevents from the moment it is made.
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Subscribe.
    pub(crate) fn subscribe() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// Wait until the kernel announced anything since the last call; `TIMEDOUT` if it is silent for `deadline`.
    pub(crate) fn wait(&self, deadline: Timespec) -> Result<(), Errno> {
        if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&deadline))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        let mut ignored = [0; 1024];
        loop {
            match recv(self.0.as_fd(), &mut ignored[..], RecvFlags::empty()) {
                Err(Errno::AGAIN) => return Ok(()),
                // Announcements were lost for want of room; the next look at /sys sees what they were about.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }
}
