//! Who may connect where, and what is said to the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use insta::assert_snapshot;
use matchlock_net::policy::{Decision, Destination, Policy, Protocol};
use proptest::prelude::*;

use crate::{intercept, ip, name, open, private, table, tcp};

fn told(decision: &Decision) -> String {
    match decision {
        Decision::Allowed(allowed) => {
            let by = allowed.name.as_ref().map(|name| format!(", for {name}")).unwrap_or_default();
            format!("allowed: {allowed}{by}")
        }
        Decision::Denied(denied) => format!("DENIED {denied}"),
    }
}

/// A connection (`name address:port`, `address:port`) or a name to be resolved.
fn ask(policy: &Policy, asked: &str) -> String {
    let (claimed, to) = asked.split_once(' ').map_or((None, asked), |(claimed, to)| (Some(name(claimed)), to));
    match (claimed, to.parse::<SocketAddr>()) {
        (Some(claimed), to) => {
            let to = to.unwrap();
            told(&policy.connect(&tcp(Some(&claimed), to.ip(), to.port())))
        }
        (None, Ok(to)) => told(&policy.connect_to(to.ip(), to.port(), Protocol::Tcp, &[])),
        (None, Err(_)) => told(&policy.name(&name(asked))),
    }
}

fn asked<const N: usize>(policy: &Policy, asked: [&str; N]) -> String {
    table(asked.map(|asked_for| (asked_for, ask(policy, asked_for))))
}

#[test]
fn an_allow_list() {
    let policy =
        intercept(&["api.x.com", "*.y.org:8000-8100", "db.x.com:5432", "9.9.9.0/24", "[2600::5]:22", "10.0.0.5"]);
    assert_snapshot!(asked(&policy, [
        "api.x.com", "API.X.COM.", "y.org", "a.b.y.org", "evil.com", "api.x.com 1.2.3.4:443", "api.x.com 1.2.3.4:8443",
        "db.x.com 1.2.3.4:5432", "db.x.com 1.2.3.4:80", "a.y.org 1.2.3.4:8080", "evil.com 1.2.3.4:443", "evil.com 9.9.9.9:22",
        "1.2.3.4:443", "9.9.9.9:25", "[2600::5]:22", "[2600::5]:23", "[::ffff:9.9.9.9]:25", "api.x.com 10.0.0.7:443",
        "api.x.com 127.0.0.1:80", "api.x.com 169.254.169.254:80", "10.0.0.5:80", "10.0.0.6:80", "169.254.169.254:80",
        "255.255.255.255:80",
    ]), @"
    api.x.com                        allowed: --allow-host api.x.com, for api.x.com
    API.X.COM.                       allowed: --allow-host api.x.com, for api.x.com
    y.org                            DENIED y.org: host not in allowlist (--allow-host y.org would allow it)
    a.b.y.org                        allowed: --allow-host *.y.org:8000-8100, for a.b.y.org
    evil.com                         DENIED evil.com: host not in allowlist (--allow-host evil.com would allow it)
    api.x.com 1.2.3.4:443            allowed: --allow-host api.x.com, for api.x.com
    api.x.com 1.2.3.4:8443           DENIED api.x.com:8443: host not in allowlist with port 8443 (--allow-host api.x.com:8443 would allow it)
    db.x.com 1.2.3.4:5432            allowed: --allow-host db.x.com:5432, for db.x.com
    db.x.com 1.2.3.4:80              DENIED db.x.com:80: host not in allowlist with port 80 (--allow-host db.x.com:80 would allow it)
    a.y.org 1.2.3.4:8080             allowed: --allow-host *.y.org:8000-8100, for a.y.org
    evil.com 1.2.3.4:443             DENIED evil.com:443: host not in allowlist (--allow-host evil.com would allow it)
    evil.com 9.9.9.9:22              allowed: --allow-host 9.9.9.0/24
    1.2.3.4:443                      DENIED 1.2.3.4:443: host not in allowlist (--allow-host 1.2.3.4:443 would allow it)
    9.9.9.9:25                       allowed: --allow-host 9.9.9.0/24
    [2600::5]:22                     allowed: --allow-host [2600::5]:22
    [2600::5]:23                     DENIED [2600::5]:23: host not in allowlist (--allow-host [2600::5]:23 would allow it)
    [::ffff:9.9.9.9]:25              allowed: --allow-host 9.9.9.0/24
    api.x.com 10.0.0.7:443           DENIED api.x.com: 10.0.0.7 is a private address (--allow-private-host 10.0.0.7 would allow it)
    api.x.com 127.0.0.1:80           DENIED api.x.com: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    api.x.com 169.254.169.254:80     DENIED api.x.com: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    10.0.0.5:80                      DENIED 10.0.0.5: 10.0.0.5 is a private address (--allow-private-host 10.0.0.5 would allow it)
    10.0.0.6:80                      DENIED 10.0.0.6:80: host not in allowlist (--allow-host 10.0.0.6:80 --allow-private-host 10.0.0.6 would allow it)
    169.254.169.254:80               DENIED 169.254.169.254:80: host not in allowlist (--allow-host 169.254.169.254:80 --allow-private-host 169.254.169.254 would allow it)
    255.255.255.255:80               DENIED 255.255.255.255:80: host not in allowlist
    ");
}

#[test]
fn an_open_network() {
    let policy = Policy { own_addresses: vec![ip("5.6.7.8")], ..open() };
    assert_snapshot!(asked(&policy, [
        "evil.com", "evil.com 1.2.3.4:22", "1.2.3.4:22", "10.0.0.5:22", "evil.com 10.0.0.5:22", "127.0.0.1:22", "5.6.7.8:22",
        "169.254.169.254:80", "[fe80::1]:80", "[64:ff9b::10.0.0.1]:80", "0.0.0.0:80", "224.0.0.1:80",
    ]), @"
    evil.com                         allowed: the open network, for evil.com
    evil.com 1.2.3.4:22              allowed: the open network, for evil.com
    1.2.3.4:22                       allowed: the open network
    10.0.0.5:22                      DENIED 10.0.0.5: 10.0.0.5 is a private address (--allow-private-host 10.0.0.5 would allow it)
    evil.com 10.0.0.5:22             DENIED evil.com: 10.0.0.5 is a private address (--allow-private-host 10.0.0.5 would allow it)
    127.0.0.1:22                     DENIED 127.0.0.1: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    5.6.7.8:22                       DENIED 5.6.7.8: 5.6.7.8 is the host itself (--allow-private-host 5.6.7.8 would allow it)
    169.254.169.254:80               DENIED 169.254.169.254: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    [fe80::1]:80                     DENIED fe80::1: fe80::1 is an address of the local link (--allow-private-host fe80::1 would allow it)
    [64:ff9b::10.0.0.1]:80           DENIED 64:ff9b::a00:1: 64:ff9b::a00:1 is a private address (--allow-private-host 64:ff9b::a00:1 would allow it)
    0.0.0.0:80                       DENIED 0.0.0.0: 0.0.0.0 is an address of no machine
    224.0.0.1:80                     DENIED 224.0.0.1: 224.0.0.1 is a multicast address
    ");
}

#[test]
fn private_addresses_are_opened_by_address_and_by_name() {
    let targets = ["10.0.0.0/8", "*.corp", "169.254.0.0/16", "0.0.0.0/0", "127.0.0.1"];
    let policy = private(open(), &targets[..3]);
    assert_snapshot!(asked(&policy, [
        "10.9.9.9:80", "192.168.0.1:80", "db.corp 192.168.0.1:80", "db.corp 127.0.0.1:80", "db.corp 169.254.169.254:80",
        "169.254.7.7:80", "169.254.169.254:80", "[::ffff:10.0.0.1]:80", "[64:ff9b::10.0.0.1]:80",
    ]), @"
    10.9.9.9:80                      allowed: the open network and --allow-private-host 10.0.0.0/8
    192.168.0.1:80                   DENIED 192.168.0.1: 192.168.0.1 is a private address (--allow-private-host 192.168.0.1 would allow it)
    db.corp 192.168.0.1:80           allowed: the open network and --allow-private-host *.corp, for db.corp
    db.corp 127.0.0.1:80             DENIED db.corp: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    db.corp 169.254.169.254:80       DENIED db.corp: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    169.254.7.7:80                   allowed: the open network and --allow-private-host 169.254.0.0/16
    169.254.169.254:80               DENIED 169.254.169.254: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    [::ffff:10.0.0.1]:80             allowed: the open network and --allow-private-host 10.0.0.0/8
    [64:ff9b::10.0.0.1]:80           DENIED 64:ff9b::a00:1: 64:ff9b::a00:1 is a private address (--allow-private-host 64:ff9b::a00:1 would allow it)
    ");
    // No range opens metadata, and nothing opens what is no address of anybody.
    assert_snapshot!(asked(&private(open(), &targets[3..]), [
        "127.0.0.1:80", "169.254.169.254:80", "0.0.0.0:80", "255.255.255.255:80", "[::1]:80",
    ]), @"
    127.0.0.1:80                     allowed: the open network and --allow-private-host 0.0.0.0/0
    169.254.169.254:80               DENIED 169.254.169.254: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    0.0.0.0:80                       DENIED 0.0.0.0: 0.0.0.0 is an address of no machine
    255.255.255.255:80               DENIED 255.255.255.255: 255.255.255.255 is the broadcast address
    [::1]:80                         DENIED ::1: ::1 is the host itself (--allow-private-host ::1 would allow it)
    ");
    assert_snapshot!(asked(&private(open(), &["169.254.169.254"]), ["169.254.169.254:80", "169.254.170.2:80"]), @"
    169.254.169.254:80               allowed: the open network and --allow-private-host 169.254.169.254
    169.254.170.2:80                 DENIED 169.254.170.2: 169.254.170.2 is a cloud metadata address (--allow-private-host 169.254.170.2 would allow it)
    ");
    assert_snapshot!(asked(&private(open(), &["*"]), [
        "192.168.0.1:80", "x.com 192.168.0.1:80", "127.0.0.1:80", "x.com 127.0.0.1:80", "169.254.169.254:80",
    ]), @"
    192.168.0.1:80                   allowed: the open network and --allow-private-host *
    x.com 192.168.0.1:80             allowed: the open network and --allow-private-host *, for x.com
    127.0.0.1:80                     DENIED 127.0.0.1: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    x.com 127.0.0.1:80               DENIED x.com: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    169.254.169.254:80               DENIED 169.254.169.254: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    ");
    // An allow-list still has to have the host.
    assert_snapshot!(asked(&private(intercept(&["x.com"]), &["10.0.0.0/8"]), ["10.0.0.5:80", "x.com 10.0.0.5:80"]), @"
    10.0.0.5:80                      DENIED 10.0.0.5:80: host not in allowlist (--allow-host 10.0.0.5:80 --allow-private-host 10.0.0.5 would allow it)
    x.com 10.0.0.5:80                allowed: --allow-host x.com and --allow-private-host 10.0.0.0/8, for x.com
    ");
}

#[test]
fn the_recipe_for_a_service_of_ones_own() {
    let added = vec![(name("my-service"), ip("192.168.1.100")), (name("here"), ip("127.0.0.1"))];
    let policy = Policy { added, ..private(intercept(&["my-service", "here:8080"]), &["192.168.1.100", "here"]) };
    assert_snapshot!(asked(&policy, [
        "my-service", "my-service 192.168.1.100:80", "192.168.1.100:80", "192.168.1.100:22", "192.168.1.101:80",
        "127.0.0.1:8080", "127.0.0.1:22", "here 127.0.0.2:8080",
    ]), @"
    my-service                       allowed: --add-host, for my-service
    my-service 192.168.1.100:80      allowed: --allow-host my-service and --allow-private-host 192.168.1.100, for my-service
    192.168.1.100:80                 allowed: --allow-host my-service and --allow-private-host 192.168.1.100, for my-service
    192.168.1.100:22                 DENIED my-service:22: host not in allowlist with port 22 (--allow-host my-service:22 would allow it)
    192.168.1.101:80                 DENIED 192.168.1.101:80: host not in allowlist (--allow-host 192.168.1.101:80 --allow-private-host 192.168.1.101 would allow it)
    127.0.0.1:8080                   allowed: --allow-host here:8080 and --allow-private-host here, for here
    127.0.0.1:22                     DENIED here:22: host not in allowlist with port 22 (--allow-host here:22 would allow it)
    here 127.0.0.2:8080              DENIED here: 127.0.0.2 is the host itself (--allow-private-host 127.0.0.2 would allow it)
    ");
    let forgotten = Policy { allow_private: Vec::new(), ..policy };
    assert_snapshot!(asked(&forgotten, ["192.168.1.100:80"]), @"192.168.1.100:80                 DENIED my-service: 192.168.1.100 is a private address (--allow-private-host 192.168.1.100 would allow it)");
}

#[test]
fn an_address_is_judged_by_all_the_names_that_led_to_it() {
    let policy = intercept(&["git.x.com:22", "www.x.com"]);
    let to = |port, pinned: &[&str]| {
        let pinned: Vec<_> = pinned.iter().map(|text| name(text)).collect();
        told(&policy.connect_to(ip("1.2.3.4"), port, Protocol::Tcp, &pinned))
    };
    let both = ["www.x.com", "git.x.com"];
    assert_snapshot!(table([
        ("both, 22", to(22, &both)),
        ("both, 443", to(443, &both)),
        ("both, 25", to(25, &both)),
        ("www.x.com, 22", to(22, &["www.x.com"])),
        ("evil.com, 22", to(22, &["evil.com"])),
        ("none, 22", to(22, &[])),
    ]), @"
    both, 22                         allowed: --allow-host git.x.com:22, for git.x.com
    both, 443                        allowed: --allow-host www.x.com, for www.x.com
    both, 25                         DENIED www.x.com:25: host not in allowlist with port 25 (--allow-host www.x.com:25 would allow it)
    www.x.com, 22                    DENIED www.x.com:22: host not in allowlist with port 22 (--allow-host www.x.com:22 would allow it)
    evil.com, 22                     DENIED evil.com:22: host not in allowlist (--allow-host evil.com:22 would allow it)
    none, 22                         DENIED 1.2.3.4:22: host not in allowlist (--allow-host 1.2.3.4:22 would allow it)
    ");
}

#[test]
fn only_tcp_is_intercepted() {
    let ask = |policy: &Policy, protocol, port| {
        told(&policy.connect(&Destination { name: None, address: ip("1.2.3.4"), port, protocol }))
    };
    let closed = intercept(&["*"]);
    assert_snapshot!(table([
        ("intercepted UDP 443", ask(&closed, Protocol::Udp, 443)),
        ("intercepted ping", ask(&closed, Protocol::Icmp, 0)),
        ("intercepted TCP 443", ask(&closed, Protocol::Tcp, 443)),
        ("open UDP 443", ask(&open(), Protocol::Udp, 443)),
        ("open ping", ask(&open(), Protocol::Icmp, 0)),
    ]), @"
    intercepted UDP 443              DENIED 1.2.3.4:443: UDP cannot be intercepted
    intercepted ping                 DENIED 1.2.3.4: ICMP cannot be intercepted
    intercepted TCP 443              allowed: --allow-host *
    open UDP 443                     allowed: the open network
    open ping                        allowed: the open network
    ");
}

#[test]
fn of_a_names_addresses_the_private_ones_are_dropped() {
    let policy = private(intercept(&["x.com"]), &["10.0.0.5"]);
    let resolved = ["1.2.3.4", "10.0.0.5", "10.0.0.6", "::ffff:127.0.0.1", "2600::1"].map(ip);
    let vetted = policy.addresses(&name("x.com"), resolved);
    assert_eq!(vetted.usable, ["1.2.3.4", "10.0.0.5", "2600::1"].map(ip));
    let refused: Vec<_> = vetted.refused.iter().map(ToString::to_string).collect();
    assert_snapshot!(refused.join("\n"), @"
    x.com: 10.0.0.6 is a private address (--allow-private-host 10.0.0.6 would allow it)
    x.com: 127.0.0.1 is the host itself (--allow-private-host 127.0.0.1 would allow it)
    ");
}

proptest! {
    #[test]
    fn an_empty_list_allows_nothing(bits in any::<u128>(), port in any::<u16>(), label in "[a-z]{1,9}") {
        let policy = intercept(&[]);
        let name = name(&label);
        prop_assert!(!policy.name(&name).is_allowed());
        let v6 = Ipv6Addr::from_bits(bits);
        let [a, b, c, d, ..] = v6.octets();
        for address in [v6.into(), IpAddr::from([a, b, c, d])] {
            for claimed in [None, Some(&name)] {
                prop_assert!(!policy.connect(&tcp(claimed, address, port)).is_allowed());
            }
            prop_assert!(!policy.connect_to(address, port, Protocol::Tcp, std::slice::from_ref(&name)).is_allowed());
        }
    }

    /// The flag of a denial is worth what it says: with it, the same is allowed.
    #[test]
    fn the_flag_that_is_named_allows_it(bits in any::<u32>(), shift in 0..32_u32, port in 1..=u16::MAX, named in any::<bool>()) {
        let x = name("x.com");
        let address = Ipv4Addr::from_bits(bits >> shift).into();
        let destination = tcp(named.then_some(&x), address, port);
        let mut policy = intercept(&["x.com:1"]);
        for _ in 0..2 {
            let Decision::Denied(denied) = policy.connect(&destination) else { break };
            let Some(flags) = denied.flag() else { return Ok(()) };
            let words: Vec<_> = flags.split(' ').collect();
            for pair in words.chunks(2) {
                match pair {
                    ["--allow-host", target] => policy.allowed.push(target.parse().unwrap()),
                    ["--allow-private-host", target] => policy.allow_private.push(target.parse().unwrap()),
                    other => panic!("{other:?}"),
                }
            }
        }
        prop_assert!(policy.connect(&destination).is_allowed(), "{:?}", policy);
    }
}
