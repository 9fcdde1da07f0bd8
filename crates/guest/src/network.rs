//! The loopback device, and the guest's end of its network link.
//!
//! The link is configured before the guest is saved, with what all sandboxes have in common, and for a start where that differs or
//! where nothing was done before. Invariant: done again, it changes what differs.

use std::net::IpAddr;

use matchlock_netlink::{IPV6_MINIMUM_MTU, Link, Netlink};
use matchlock_wire::NetworkLink;
use rustix::io::Errno;

use crate::os_error::{Doing, OsError};

/// Linux numbers Ethernet interfaces, and there is one.
const INTERFACE: &str = "eth0";

/// Bring the loopback device up, so that `127.0.0.1` and `::1` work with and without a network: the kernel adds its addresses.
pub(crate) fn raise_loopback() -> Result<(), Errno> {
    let netlink = Netlink::open()?;
    netlink.set_up(netlink.link("lo")?, None)
}

/// Set the interface up with its addresses and routes.
pub(crate) fn configure(network: &NetworkLink) -> Result<(), OsError> {
    let netlink = Netlink::open().doing(|| "open a netlink socket".to_owned())?;
    let link = netlink.link(INTERFACE).doing(|| format!("find {INTERFACE}"))?;
    let up = netlink.set_up(link, Some(network.mtu));
    up.doing(|| format!("set {INTERFACE} up with an MTU of {}", network.mtu))?;
    let join = |(address, prefix), gateway| {
        join(&netlink, link, address, prefix, gateway).doing(|| format!("give {INTERFACE} the address {address}"))
    };
    let ((ipv4, prefix4), (ipv6, prefix6)) = (network.ipv4, network.ipv6);
    join((ipv4.into(), prefix4), network.gateway4.into())?;
    if network.mtu >= IPV6_MINIMUM_MTU {
        join((ipv6.into(), prefix6), network.gateway6.into())?;
    }
    Ok(())
}

fn join(netlink: &Netlink, link: Link, address: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), Errno> {
    match netlink.add_address(link, address, prefix) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    netlink.add_default_route(gateway)
}
