//! Links, addresses and routes by rtnetlink(7), and rules by nft(8): what the ends of a sandbox's network link ask of their kernels.
//!
//! Called by `guest` for its interface, by `net` for the other end, and by `store`, which takes away what a sandbox has left in the
//! host's own network ([`HostLink`]). The messages are made by hand, for the whole of it is shorter than the use of a library that
//! brings an executor of its own; `ip` would be a process per line. Invariant: when a call returns, the kernel has done it.

mod host_link;
mod message;
mod nft;

use std::net::IpAddr;

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice::name_to_index, recv, send, socket_with,
    },
};

use self::message::Message;
pub use self::{
    host_link::{HostLink, HostLinkError},
    nft::{Nft, NftError},
};

/// Below this a link carries no IPv6, in bytes (RFC 8200, section 5). Both ends of a sandbox's go by it.
pub const IPV6_MINIMUM_MTU: u16 = 1280;

/// A connection to the kernel of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// A link's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

impl Netlink {
    /// A connection for the namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> Result<Self, Errno> {
        // NETLINK_ROUTE is protocol 0.
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// The link of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn link(&self, name: &str) -> Result<Link, Errno> {
        Ok(Link(name_to_index(&self.0, name)?))
    }

    /// Set a link up, and the size in bytes of the largest packet that it carries.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&self, link: Link, mtu: Option<u16>) -> Result<(), Errno> {
        self.ask(Message::set_up(link, mtu))
    }

    /// Give a link an address, of which so many bits are its network's. Nobody else is asked whether they have it.
    ///
    /// # Errors
    /// What the kernel says; it has the address already if that is `EEXIST`.
    pub fn add_address(&self, link: Link, address: IpAddr, prefix: u8) -> Result<(), Errno> {
        self.ask(Message::add_address(link, address, prefix))
    }

    /// Have everything that goes nowhere else go to `gateway`, which a link's network has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_default_route(&self, gateway: IpAddr) -> Result<(), Errno> {
        self.ask(Message::default_route(gateway))
    }

    /// Make every address of IPv4 or of IPv6 this machine's own, as far as no other route is more specific.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make_all_local(&self, loopback: Link, ipv6: bool) -> Result<(), Errno> {
        self.ask(Message::all_local(loopback, ipv6))
    }

    /// Give a link that is not up another name, of at most 15 characters.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rename(&self, link: Link, name: &str) -> Result<(), Errno> {
        self.ask(Message::rename(link, name))
    }

    /// Give a link an address without a network, and so without a route.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_lone_address(&self, link: Link, address: IpAddr) -> Result<(), Errno> {
        self.ask(Message::add_lone_address(link, address))
    }

    /// Send a message and wait for the kernel's word on it, which it has ready when `send` returns.
    fn ask(&self, message: Message) -> Result<(), Errno> {
        send(&self.0, &message.finish(), SendFlags::empty())?;
        let mut answer = [0; 1024];
        let (length, _) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        message::outcome(&answer[..length])
    }
}
