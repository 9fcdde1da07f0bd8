//! A place among the host's own links, for where user namespaces are forbidden and this program has rights in the host's network
//! (capabilities(7), as files have them).
//!
//! Called by the holder. What it makes is named after the sandbox, so that it can be taken away by whoever knows that
//! ([`HostLink`]). Invariants: nothing of the host's own changes, neither settings nor routes nor rules; no packet comes in before
//! all of it is in force.

use std::os::fd::OwnedFd;

use matchlock_netlink::HostLink;
use rustix::thread::{CapabilitySet, capabilities};

use super::{
    Doors, Error, Plan,
    holder::{put_away, set},
    link,
    ruleset::{Place, Ports, Ruleset},
    tap,
};

/// All that is needed here.
const RIGHTS: CapabilitySet =
    CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW).union(CapabilitySet::NET_BIND_SERVICE);

/// What a TAP is called until it is a sandbox's.
const SPARE: &str = "fc-%d";

/// Make a TAP; also returns what it is called.
pub(super) fn create() -> Result<(OwnedFd, String), Error> {
    let mine = capabilities(None).map_err(|e| Error::step("see what this process may do", &e.into()))?;
    if !mine.effective.contains(RIGHTS) {
        return Err(Error::rights());
    }
    tap::make(SPARE)
}

/// Make what goes by the plan for the TAP that is called so, as `link`.
pub(super) fn finish(plan: &Plan, own: &HostLink, called: &str) -> Result<Doors, Error> {
    link::prepare_on_host(own, called)?;
    let name = own.name();
    set(&[
        // Whom a packet is from is looked up by its mark, too, where that is looked up.
        (&format!("ipv4/conf/{name}/src_valid_mark"), "1"),
        (&format!("ipv6/conf/{name}/disable_ipv6"), "0"),
        (&format!("ipv6/conf/{name}/accept_dad"), "0"),
        (&format!("ipv6/conf/{name}/accept_ra"), "0"),
    ])?;
    let doors = Doors::open(Some(own)).map_err(|e| Error::step("open the gateway's sockets", &e))?;
    let ports = ports(&doors).map_err(|e| Error::step("read the ports of the gateway's sockets", &e))?;
    Ruleset { plan, place: Place::Host(own, ports) }.apply()?.done()?;
    link::open_on_host(own, &plan.addressing)?;
    put_away(CapabilitySet::NET_ADMIN)?;
    Ok(doors)
}

fn ports(doors: &Doors) -> std::io::Result<Ports> {
    Ok(Ports {
        tcp: doors.tcp.local_addr()?.port(),
        udp: doors.udp.local_addr()?.port(),
        dns_tcp: doors.dns_tcp.local_addr()?.port(),
        dns_udp: doors.dns_udp.local_addr()?.port(),
    })
}
