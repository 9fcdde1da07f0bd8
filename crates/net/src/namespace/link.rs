//! The namespace's end of the guest's link: its addresses, and the routes that turn any destination into a delivery to a local
//! socket. They are less specific than the link's own network, by which answers go to the guest.

use matchlock_netlink::Netlink;
use rustix::io::Errno;

use super::{Addressing, Error, LINK};

/// Set both links up and make every address of the world one of the namespace's own, except the guest's.
pub(super) fn configure(a: &Addressing) -> Result<(), Error> {
    let step = |what: &'static str| move |e: Errno| Error::step(what, &e.into());
    let netlink = Netlink::open().map_err(step("open a netlink socket"))?;
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
