//! The loopback device, and the guest's end of its network link.
//!
//! The link is configured before the guest is saved, with what all sandboxes have in common, and for a start where that differs or
//! where nothing was done before. Invariant: done again, it changes what differs.

use std::{fs, net::IpAddr};

use matchlock_netlink::{IPV6_MINIMUM_MTU, Link, Netlink};
use matchlock_wire::NetworkLink;
use rustix::{io::Errno, time::Timespec};

use crate::{
    announcements::Announcements,
    console::say,
    os_error::{Doing, OsError},
};

/// Linux numbers Ethernet interfaces, and there is one.
const INTERFACE: &str = "eth0";

/// How long the kernel may be silent about a link that is not settled before nobody waits for it any more.
const SETTLING_DEADLINE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

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

/// Wait until the kernel has done what it does by itself, up to a second later: it finds the link running and gives it an address
/// of its own. A guest that is saved before does it in every sandbox, where it takes an emulator a tenth of the start.
pub(crate) fn settle(network: &NetworkLink) -> Result<(), OsError> {
    let announcements = Announcements::of_links().doing(|| "listen to the kernel's network".to_owned())?;
    while !is_settled(network) {
        match announcements.wait(SETTLING_DEADLINE) {
            Ok(()) => {}
            // It will be right then, only later.
            Err(Errno::TIMEDOUT) => {
                say(format_args!("{INTERFACE} does not settle"));
                break;
            }
            Err(errno) => return Err(errno).doing(|| format!("wait for {INTERFACE}")),
        }
    }
    Ok(())
}

fn is_settled(network: &NetworkLink) -> bool {
    let runs = fs::read_to_string(format!("/sys/class/net/{INTERFACE}/operstate")).is_ok_and(|state| state == "up\n");
    let addresses = || fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    runs && (network.mtu < IPV6_MINIMUM_MTU || has_own_address(&addresses()))
}

/// Whether in these lines (address, link, prefix, scope, flags, name; all numbers hexadecimal) is one that is valid at the link
/// only, and that nobody is asked about any more.
fn has_own_address(addresses: &str) -> bool {
    const LINK: &str = "20";
    const TENTATIVE: u8 = 0x40;
    addresses.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, _, _, LINK, flags, INTERFACE] = fields[..] else { return false };
        u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & TENTATIVE == 0)
    })
}

fn join(netlink: &Netlink, link: Link, address: IpAddr, prefix: u8, gateway: IpAddr) -> Result<(), Errno> {
    match netlink.add_address(link, address, prefix) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    netlink.add_default_route(gateway)
}

#[cfg(test)]
mod tests {
    use super::has_own_address;

    #[test]
    fn an_address_of_its_own_is_the_links_and_not_tentative() {
        let settled = "fe80000000000000a8fc00fffe000002 02 40 20 80     eth0\n";
        let others = "00000000000000000000000000000001 01 80 10 80       lo\nfd6d6174636800000000000000000002 02 7e 00 82     eth0\n";
        assert!(has_own_address(&format!("{others}{settled}")));
        for other in [others, "", &settled.replace("80     eth0", "c0     eth0"), &settled.replace("eth0", "dummy0")] {
            assert!(!has_own_address(other), "{other}");
        }
    }
}
