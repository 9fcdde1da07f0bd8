//! What `run --learn` has seen, and the smallest allow-list for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use matchlock_net::{
    gateway::{ClientAddr, End, Event, Question, Request, What},
    policy::{Host, Protocol, WEB_PORTS},
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
    /// The names that the guest was given an address for.
    given: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Connections with requests, as long as they go on.
    asking: HashSet<ClientAddr>,
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
            // To ask for a name without connecting to it needs no leave.
            What::Query(_, Some(question)) => return seen.give(question),
            What::Query(_, None) => return,
            What::Request(request) => return seen.request(request, event),
        };
        match (&event.end, protocol) {
            (End::Denied(denied), _) => seen.refuse(denied.to_string()),
            (_, Protocol::Tcp) if seen.asking.remove(&event.client) => {}
            (_, Protocol::Tcp) => seen.connect_to_any(name.map(ToString::to_string), destination),
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
    fn give(&mut self, question: &Question) {
        for address in &question.addresses {
            let known = self.given.len();
            match self.given.get_mut(address) {
                Some(names) if names.len() < MAX_LEARNED => {
                    names.insert(question.name.to_string());
                }
                None if known < MAX_LEARNED => {
                    self.given.insert(*address, [question.name.to_string()].into());
                }
                _ => self.overflowed = true,
            }
        }
    }

    /// Where requests are looked into, they say whom their connection is for.
    fn request(&mut self, request: &Request, event: &Event) {
        if let End::Denied(denied) = &event.end {
            self.refuse(denied.to_string());
        } else if let Some(host) = &request.host {
            let name = matches!(host, Host::Name(_)).then(|| host.to_string());
            self.connect(name, event.destination.get());
            self.asking.insert(event.client);
        }
    }

    /// Which of its names was meant is not to be seen: all of them may have been.
    fn connect_to_any(&mut self, known: Option<String>, destination: SocketAddr) {
        let given = self.given.get(&destination.ip()).cloned().unwrap_or_default();
        if given.is_empty() {
            self.connect(known, destination);
        }
        for name in given {
            self.connect(Some(name), destination);
        }
    }

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
        super::events::{answer, connection, denied_address, flow, request},
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
    fn hosts_at_one_address_are_told_apart_by_requests_and_by_nothing_else() {
        let learned = Learned::default();
        learned.hear(&answer("api.x.com", "192.0.2.1"));
        learned.hear(&answer("web.x.com", "192.0.2.1"));
        learned.hear(&request("api.x.com", "192.0.2.1:443"));
        learned.hear(&connection(Some("web.x.com"), "192.0.2.1:443"));
        assert_eq!(learned.lesson().allowed, ["api.x.com"]);
        learned.hear(&connection(Some("web.x.com"), "192.0.2.1:22"));
        assert_eq!(learned.lesson().allowed, ["api.x.com", "api.x.com:22", "web.x.com:22"]);
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
