//! What `run --learn` has seen, and the smallest allow-list for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use matchlock_net::{
    gateway::{End, Event, What},
    policy::{Protocol, WEB_PORTS},
};

/// Hosts that are remembered: an allow-list of more is none that anybody reads.
pub const MAX_LEARNED: usize = 1000;

/// What a sandbox has asked for so far.
#[derive(Debug, Default)]
pub struct Learned {
    seen: Mutex<Seen>,
}

/// What it asked for, as flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    /// For `--allow-host`: names with their ports; addresses where there was no name.
    pub allowed: Vec<String>,
    /// What was refused although the network was open: the destination, why, and which flag would allow it.
    pub refused: Vec<String>,
    /// What went over UDP or as an echo, which an allow-list does not carry.
    pub uncarried: Vec<String>,
    /// There were more hosts than could be remembered.
    pub overflowed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    ports: BTreeMap<String, BTreeSet<u16>>,
    /// Which of them are addresses.
    addresses: BTreeMap<String, IpAddr>,
    refused: BTreeSet<String>,
    uncarried: BTreeSet<String>,
    overflowed: bool,
}

impl Learned {
    /// Remember an event.
    pub fn hear(&self, event: &Event) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let destination = event.destination.get();
        let name = event.allowed.as_ref().and_then(|allowed| allowed.name.as_ref());
        let protocol = match &event.what {
            What::Connection(_) => Protocol::Tcp,
            What::Flow(_) => Protocol::Udp,
            What::Echo => Protocol::Icmp,
            // What is asked for without being connected to needs no leave, and requests have connections.
            _ => return,
        };
        match (&event.end, protocol) {
            (End::Denied(denied), _) => seen.refuse(denied.to_string()),
            (_, Protocol::Tcp) => seen.connect(name.map(ToString::to_string), destination),
            (_, Protocol::Udp | Protocol::Icmp) => {
                let host = name.map_or_else(|| destination.ip().to_string(), ToString::to_string);
                let port =
                    if protocol == Protocol::Udp { format!(" port {}", destination.port()) } else { String::new() };
                seen.leave_out(format!("{protocol} to {host}{port}"));
            }
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn lesson(&self) -> Lesson {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Lesson {
            allowed: seen.ports.iter().flat_map(|(host, ports)| seen.targets(host, ports)).collect(),
            refused: seen.refused.iter().cloned().collect(),
            uncarried: seen.uncarried.iter().cloned().collect(),
            overflowed: seen.overflowed,
        }
    }
}

impl Seen {
    fn connect(&mut self, name: Option<String>, destination: SocketAddr) {
        let host = name.unwrap_or_else(|| {
            let address = destination.ip();
            self.addresses.insert(address.to_string(), address);
            address.to_string()
        });
        let known = self.ports.len();
        match self.ports.get_mut(&host) {
            Some(ports) => {
                ports.insert(destination.port());
            }
            None if known == MAX_LEARNED => self.overflowed = true,
            None => {
                self.ports.insert(host, [destination.port()].into());
            }
        }
    }

    fn refuse(&mut self, line: String) {
        if self.refused.len() < MAX_LEARNED {
            self.refused.insert(line);
        }
    }

    fn leave_out(&mut self, line: String) {
        if self.uncarried.len() < MAX_LEARNED {
            self.uncarried.insert(line);
        }
    }

    /// A name alone means the web's ports, an address alone all, so an address always has its port here.
    fn targets(&self, host: &str, ports: &BTreeSet<u16>) -> Vec<String> {
        if let Some(address) = self.addresses.get(host) {
            return ports.iter().map(|port| SocketAddr::new(*address, *port).to_string()).collect();
        }
        let web = ports.iter().any(|port| WEB_PORTS.contains(port)).then(|| host.to_owned());
        let others = ports.iter().filter(|port| !WEB_PORTS.contains(port)).map(|port| format!("{host}:{port}"));
        web.into_iter().chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use matchlock_net::policy::Target;

    use super::{
        super::events::{connection, denied_address, flow},
        *,
    };

    #[test]
    fn the_smallest_list_for_what_was_seen() {
        let learned = Learned::default();
        for (name, to) in [
            (Some("api.x.com"), "192.0.2.1:443"),
            (Some("api.x.com"), "192.0.2.2:80"),
            (Some("db.x.com"), "192.0.2.3:5432"),
            (Some("api.x.com"), "192.0.2.1:8443"),
            (None, "192.0.2.9:22"),
            (None, "[2001:db8::1]:22"),
        ] {
            learned.hear(&connection(name, to));
        }
        learned.hear(&flow("192.0.2.1:443"));
        learned.hear(&denied_address("10.0.0.5:80"));
        let Lesson { allowed, refused, uncarried, overflowed } = learned.lesson();
        assert_eq!(allowed, ["192.0.2.9:22", "[2001:db8::1]:22", "api.x.com", "api.x.com:8443", "db.x.com:5432"]);
        assert!(allowed.iter().all(|target| target.parse::<Target>().is_ok()));
        assert_eq!(refused, ["10.0.0.5: 10.0.0.5 is a private address (--allow-private-host 10.0.0.5 would allow it)"]);
        assert_eq!(uncarried, ["UDP to 192.0.2.1 port 443"]);
        assert!(!overflowed);
    }

    #[test]
    fn a_guest_that_connects_to_everything_is_not_remembered() {
        let learned = Learned::default();
        for number in 0..=MAX_LEARNED {
            learned.hear(&connection(Some(&format!("host-{number}.com")), "192.0.2.1:443"));
        }
        assert!(learned.lesson().overflowed && learned.lesson().allowed.len() == MAX_LEARNED);
    }
}
