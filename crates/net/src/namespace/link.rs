//! The gateway's end of the guest's link: its addresses, and the routes that turn any destination into a delivery to a local
//! socket.

use std::net::{IpAddr, Ipv4Addr};

use matchlock_netlink::{HostLink, Netlink};
use rustix::io::Errno;

use super::{Addressing, Error, LINK};

/// In a namespace of its own: set both links up and make every address of the world one of the namespace's own, except the guest's.
/// That is less specific than the link's own network, by which answers go to the guest.
pub(super) fn configure(a: &Addressing) -> Result<(), Error> {
    let netlink = open()?;
    let lo = netlink.link("lo").map_err(step("find lo"))?;
    let link = netlink.link(LINK).map_err(step("find the link"))?;
    netlink.set_up(lo, None).map_err(step("set lo up"))?;
    netlink.set_up(link, Some(a.mtu)).map_err(step("set the link up"))?;
    netlink.add_address(link, a.gateway4.into(), a.prefix4).map_err(step("give the link its IPv4 address"))?;
    netlink.make_all_local(lo, false).map_err(step("route IPv4 to the gateway"))?;
    if a.carries_ipv6() {
        netlink.add_address(link, a.gateway6.into(), a.prefix6).map_err(step("give the link its IPv6 address"))?;
        netlink.make_all_local(lo, true).map_err(step("route IPv6 to the gateway"))?;
    }
    Ok(())
}

/// What the host says to be when it asks who has the guest's address; the link has no IPv4 address, which could be one of the
/// host's network, and one of another link must not be told. "IPv4 dummy address" (RFC 7600, section 4.8).
pub(super) const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Among the host's own: call the link by its name, and route what will have its mark. Nothing comes in yet.
pub(super) fn prepare_on_host(own: &HostLink, called: &str) -> Result<(), Error> {
    let netlink = open()?;
    let link = netlink.link(called).map_err(step("find the link"))?;
    netlink.rename(link, own.name()).map_err(step("name the link"))?;
    own.add_routes(&netlink).map_err(step("route the sandbox's packets to the gateway"))
}

/// Let packets in, once everything else is in force.
pub(super) fn open_on_host(own: &HostLink, a: &Addressing) -> Result<(), Error> {
    let netlink = open()?;
    let link = netlink.link(own.name()).map_err(step("find the link"))?;
    netlink.set_up(link, Some(a.mtu)).map_err(step("set the link up"))?;
    netlink.add_lone_address(link, DUMMY.into()).map_err(step("give the link an IPv4 address"))?;
    let guest = |guest: IpAddr| own.add_guest(&netlink, link, guest).map_err(step("route to the guest"));
    guest(a.guest4.into())?;
    if a.carries_ipv6() {
        netlink.add_lone_address(link, a.gateway6.into()).map_err(step("give the link its IPv6 address"))?;
        guest(a.guest6.into())?;
    }
    Ok(())
}

fn open() -> Result<Netlink, Error> {
    Netlink::open().map_err(step("open a netlink socket"))
}

fn step(what: &'static str) -> impl Fn(Errno) -> Error {
    move |e| Error::step(what, &e.into())
}
