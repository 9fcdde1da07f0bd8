//! What the kernel announces by netlink(7): of devices, which [`crate::boot`] waits on for the port to the host, and of the network,
//! which [`crate::network`] waits on before the guest is saved.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
    time::Timespec,
};

/// The kernel's multicast group of uevents (linux/netlink.h: group 1 of `NETLINK_KOBJECT_UEVENT`).
const UEVENTS: u32 = 1;

/// Those of links and of their addresses (linux/rtnetlink.h: `RTMGRP_LINK`, `RTMGRP_IPV6_IFADDR`).
const LINKS_AND_ADDRESSES: u32 = 0x1 | 0x100;

/// Subscribed from the moment it is made.
pub(crate) struct Announcements(OwnedFd);

impl Announcements {
    /// Of every device that comes or goes.
    pub(crate) fn of_devices() -> Result<Self, Errno> {
        Self::subscribe(Some(KOBJECT_UEVENT), UEVENTS)
    }

    /// Of every change of a link, or of an IPv6 address.
    pub(crate) fn of_links() -> Result<Self, Errno> {
        // `NETLINK_ROUTE` is protocol 0.
        Self::subscribe(None, LINKS_AND_ADDRESSES)
    }

    fn subscribe(protocol: Option<Protocol>, groups: u32) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
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
                // Announcements were lost for want of room; the next look at /sys or /proc sees what they were about.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }
}
