//! What `run --learn` has seen, and the smallest allow-list for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use matchlock_net::{
    gateway::{ClientAddr, End, Event, Moved, Question, Request, What},
    policy::{Protocol, WEB_PORTS},
};

/// Hosts that are remembered: an allow-list of more is none that anybody reads.
pub const MAX_LEARNED: usize = 1000;

/// RFC 9110, section 15.6.3.
const BAD_GATEWAY: u16 = 502;

/// What a sandbox has asked for so far.
#[derive(Debug, Default)]
pub struct Learned {
    seen: Mutex<Seen>,
}

/// What it asked for, as flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    /// For `--allow-host`: names with their ports; addresses where there was no name, or where requests said that no name was meant.
    pub allowed: Vec<String>,
    /// What was not reached although the network was open: the destination and why, and which flag would allow it if one would.
    pub refused: Vec<String>,
    /// What went over UDP or as an echo, which an allow-list does not carry.
    pub uncarried: Vec<String>,
    /// There were more hosts than could be remembered.
    pub overflowed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    ports: BTreeMap<String, BTreeSet<u16>>,
    /// The names that the guest was given an address for.
    given: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Connections with requests, as long as they go on.
    asking: HashSet<ClientAddr>,
    refused: BTreeSet<String>,
    /// What nothing came of, and why.
    missed: BTreeMap<(String, u16), String>,
    uncarried: BTreeSet<String>,
    overflowed: bool,
}

impl Learned {
    /// Remember an event.
    pub fn hear(&self, event: &Event) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &event.what {
            // To ask for a name without connecting to it needs no leave.
            What::Query(_, question) => question.iter().for_each(|question| seen.give(question)),
            What::Request(request) => seen.request(request, event),
            What::Connection(moved) => seen.connection(*moved, event),
            What::Flow(_) | What::Echo => seen.datagrams(event),
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn lesson(&self) -> Lesson {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Lesson {
            allowed: seen.ports.iter().flat_map(|(host, ports)| Seen::targets(host, ports)).collect(),
            refused: seen.refused.iter().cloned().chain(seen.missed()).collect(),
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
        let Some(host) = &request.host else { return };
        self.asking.insert(event.client);
        // The gateway's own word for a server that is not to be had. What fails otherwise was cut short.
        self.tried(&[host.to_string()], event, request.status != Some(BAD_GATEWAY));
    }

    /// One without requests, or one that they have told of already.
    fn connection(&mut self, moved: Moved, event: &Event) {
        let asked = self.asking.remove(&event.client);
        if !asked || matches!(event.end, End::Denied(_)) {
            self.tried(&self.hosts(event), event, moved != Moved::default());
        }
    }

    fn datagrams(&mut self, event: &Event) {
        if let End::Denied(denied) = &event.end {
            return self.refuse(denied.to_string());
        }
        let (protocol, port) = match event.what {
            What::Flow(_) => (Protocol::Udp, format!(" port {}", event.destination.get().port())),
            _ => (Protocol::Icmp, String::new()),
        };
        for host in self.hosts(event) {
            self.leave_out(format!("{protocol} to {host}{port}"));
        }
    }

    /// Which of an address's names was meant is not to be seen: all of them may have been. Nor whether the address itself was,
    /// which an allow-list does not open unless it has to: what goes there is not looked into.
    fn hosts(&self, event: &Event) -> Vec<String> {
        let address = event.destination.get().ip();
        let known = event.allowed.as_ref().and_then(|allowed| allowed.name.as_ref());
        match (self.given.get(&address), known) {
            (Some(names), _) => names.iter().cloned().collect(),
            (None, Some(name)) => vec![name.to_string()],
            (None, None) => vec![address.to_string()],
        }
    }

    /// Something for these hosts is over. Where it failed, `reached` says whether there was anybody.
    fn tried(&mut self, hosts: &[String], event: &Event, reached: bool) {
        let port = event.destination.get().port();
        match &event.end {
            End::Denied(denied) => self.refuse(denied.to_string()),
            End::Blocked(why) => hosts.iter().for_each(|host| self.miss(host, port, why)),
            End::Failed(why) if !reached => hosts.iter().for_each(|host| self.miss(host, port, why)),
            End::Done | End::Failed(_) => hosts.iter().for_each(|host| self.connect(host, port)),
        }
    }

    fn miss(&mut self, host: &str, port: u16, why: &str) {
        if self.missed.len() < MAX_LEARNED {
            self.missed.insert((host.to_owned(), port), why.to_owned());
        }
    }

    fn connect(&mut self, host: &str, port: u16) {
        let known = self.ports.len();
        match self.ports.get_mut(host) {
            Some(ports) => {
                ports.insert(port);
            }
            None if known == MAX_LEARNED => self.overflowed = true,
            None => {
                self.ports.insert(host.to_owned(), [port].into());
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

    /// What was reached at another time is not told of.
    fn missed(&self) -> impl Iterator<Item = String> {
        let reached = |host, port| self.ports.get(host).is_some_and(|ports: &BTreeSet<u16>| ports.contains(port));
        let missed = self.missed.iter().filter(move |((host, port), _)| !reached(host, port));
        missed.map(|((host, port), why)| format!("{}: {why}", at(host, *port)))
    }

    /// A name alone means the web's ports, an address alone all, so an address always has its port here.
    fn targets(host: &str, ports: &BTreeSet<u16>) -> Vec<String> {
        let alone = |port: &u16| WEB_PORTS.contains(port) && host.parse::<IpAddr>().is_err();
        let web = ports.iter().any(alone).then(|| host.to_owned());
        let others = ports.iter().filter(|port| !alone(port)).map(|port| at(host, *port));
        web.into_iter().chain(others).collect()
    }
}

/// No name looks like an address.
fn at(host: &str, port: u16) -> String {
    host.parse().map_or_else(|_| format!("{host}:{port}"), |address: IpAddr| SocketAddr::new(address, port).to_string())
}

#[cfg(test)]
mod tests {
    use matchlock_net::policy::Target;

    use super::{
        super::events::{answer, connection, denied_address, failed, flow, request, unanswered},
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
    fn a_request_for_an_address_is_not_for_its_name() {
        let learned = Learned::default();
        learned.hear(&answer("good.test", "93.184.216.34"));
        for (host, to) in [
            ("good.test", "93.184.216.34:80"),
            ("93.184.216.34", "93.184.216.34:80"),
            ("93.184.216.34", "93.184.216.34:8080"),
        ] {
            learned.hear(&request(host, to));
            learned.hear(&connection(Some("good.test"), to));
        }
        assert_eq!(learned.lesson().allowed, ["93.184.216.34:80", "93.184.216.34:8080", "good.test"]);
        // Nobody has seen whom this was for.
        learned.hear(&connection(Some("good.test"), "93.184.216.34:22"));
        assert_eq!(learned.lesson().allowed.last().unwrap(), "good.test:22");
    }

    #[test]
    fn what_goes_over_udp_may_be_for_any_name_of_its_address() {
        let learned = Learned::default();
        learned.hear(&answer("api.x.com", "192.0.2.1"));
        learned.hear(&answer("web.x.com", "192.0.2.1"));
        learned.hear(&flow("192.0.2.1:443"));
        assert_eq!(learned.lesson().uncarried, ["UDP to api.x.com port 443", "UDP to web.x.com port 443"]);
    }

    #[test]
    fn what_could_not_be_connected_to_was_not_reached() {
        let learned = Learned::default();
        for event in [
            failed(Some("down.x.com"), "192.0.2.1:443", 0),
            failed(None, "[2001:db8::1]:22", 0),
            // It was there, and broke off.
            failed(Some("flaky.x.com"), "192.0.2.2:443", 10),
            // One of its addresses was.
            failed(Some("half.x.com"), "[2001:db8::2]:443", 0),
            connection(Some("half.x.com"), "192.0.2.3:443"),
            // The gateway has answered in its place.
            unanswered("gone.x.com", "192.0.2.4:443", Some(502)),
            connection(Some("gone.x.com"), "192.0.2.4:443"),
            // The guest has not waited.
            unanswered("slow.x.com", "192.0.2.5:443", None),
            connection(Some("slow.x.com"), "192.0.2.5:443"),
        ] {
            learned.hear(&event);
        }
        let Lesson { allowed, refused, .. } = learned.lesson();
        assert_eq!(allowed, ["flaky.x.com", "half.x.com", "slow.x.com"]);
        insta::assert_snapshot!(refused.join("\n"), @r"
        [2001:db8::1]:22: Connection refused (os error 111)
        down.x.com:443: Connection refused (os error 111)
        gone.x.com:443: Connection refused (os error 111)
        ");
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
