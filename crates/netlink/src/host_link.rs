//! A sandbox's link in the host's own network namespace, where user namespaces are forbidden: what it has there, and how that is
//! taken away.
//!
//! All sandboxes have the same addresses. Which of them a packet is of is its mark, a number made of the sandbox's id: what comes from
//! the link gets it before anything else happens, the gateway's sockets have it, and it chooses a table of routes. In
//! that table every address is local, but for the guest's, which is at the link. No route of the host's changes.
//!
//! ```text
//! fc-<id> ─ table netdev matchlock_fc-<id>: mark, gate ─ rule: mark → table ─ table inet matchlock_fc-<id>: tproxy ─ doors
//! ```

use std::net::IpAddr;

use rustix::io::Errno;
use thiserror::Error;

use crate::{Link, Netlink, Nft, NftError, message::Message};

/// The first byte of marks, and of the numbers of tables; the others are the id's last.
const BASE: u32 = 0x6d00_0000;
const MASK: u32 = 0xff00_0000;

/// One sandbox's, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    name: String,
    mark: u32,
}

/// Why it cannot be taken away.
#[derive(Debug, Error)]
pub enum HostLinkError {
    /// What was being done, and what the kernel says.
    #[error("{0}: {1}")]
    Kernel(&'static str, Errno),
    /// Its rules stay.
    #[error(transparent)]
    Rules(NftError),
}

impl HostLink {
    /// That of the sandbox whose id is this number.
    #[must_use]
    pub fn of(id: u32) -> Self {
        Self { name: format!("fc-{id:08x}"), mark: BASE | id & !MASK }
    }

    /// As the link is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As the tables of its rules are called, one of the family `netdev` and one of `inet`.
    #[must_use]
    pub fn table(&self) -> String {
        format!("matchlock_{}", self.name)
    }

    /// What its packets and its gateway's sockets are marked with, and the number of its table of routes.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Route what has the mark: all of it to sockets of this machine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_routes(&self, netlink: &Netlink) -> Result<(), Errno> {
        let lo = netlink.link("lo")?;
        for ipv6 in [false, true] {
            netlink.ask(Message::all_local_in(self.mark(), lo, ipv6, true))?;
            netlink.ask(Message::mark_rule(self.mark(), ipv6, true))?;
        }
        Ok(())
    }

    /// Route what has the mark and is for the guest: to the link, which is up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_guest(&self, netlink: &Netlink, link: Link, guest: IpAddr) -> Result<(), Errno> {
        netlink.ask(Message::at_link_in(self.mark(), link, guest))
    }

    /// Take away everything that is there: the link first, so that no packet meets what is half gone. Says whether there was
    /// anything.
    ///
    /// # Errors
    /// What is still there then.
    pub fn remove(&self) -> Result<bool, HostLinkError> {
        let netlink = Netlink::open().map_err(|e| HostLinkError::Kernel("open a netlink socket", e))?;
        let mut any = match netlink.link(&self.name) {
            Ok(link) => there_was(netlink.ask(Message::delete_link(link)), "delete the link")?,
            Err(_) => false,
        };
        any |= self.remove_rules().map_err(HostLinkError::Rules)?;
        let lo = netlink.link("lo").map_err(|e| HostLinkError::Kernel("find lo", e))?;
        for ipv6 in [false, true] {
            any |= there_was(netlink.ask(Message::mark_rule(self.mark(), ipv6, false)), "delete the rule of its mark")?;
            let route = Message::all_local_in(self.mark(), lo, ipv6, false);
            any |= there_was(netlink.ask(route), "delete its route")?;
        }
        Ok(any)
    }

    fn remove_rules(&self) -> Result<bool, NftError> {
        let table = self.table();
        match Nft::start(&format!("delete table netdev {table}\ndelete table inet {table}\n"))?.done() {
            Ok(()) => Ok(true),
            // Both were made at once.
            Err(NftError::Refused(why)) if why.contains("No such file or directory") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether something was deleted.
fn there_was(outcome: Result<(), Errno>, what: &'static str) -> Result<bool, HostLinkError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::SRCH | Errno::NODEV) => Ok(false),
        Err(error) => Err(HostLinkError::Kernel(what, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_marks() {
        let link = HostLink::of(0x0123_abcd);
        assert_eq!((link.name(), link.table().as_str()), ("fc-0123abcd", "matchlock_fc-0123abcd"));
        assert_eq!(link.mark(), 0x6d23_abcd);
        assert_eq!(HostLink::of(u32::MAX).mark(), 0x6dff_ffff);
    }
}
