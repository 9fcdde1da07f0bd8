//! What can be said to `--allow-host`, and whom it means.

use std::net::IpAddr;

use insta::assert_snapshot;
use matchlock_net::policy::{Host, IpNetwork, Name, PrivateTarget, Target};
use proptest::prelude::*;

use crate::{name, table};

fn read(text: &str) -> String {
    match text.parse::<Target>() {
        Ok(target) => target.to_string(),
        Err(error) => format!("! {error}"),
    }
}

#[test]
fn each_is_shown_as_it_is_meant() {
    let given = [
        "API.x.com.",
        "*.X.com",
        "x.com:443",
        "x.com:*",
        "x.com:8000-8100",
        "x.com:80-80",
        " x.com ",
        "x.*",
        "api-*.x.com",
        "*",
        "*:*",
        "*:443",
        "10.0.0.5",
        "10.0.0.5:*",
        "10.0.0.5:22",
        "10.0.0.0/8",
        "10.0.0.0/8:5432",
        "10.1.*",
        "10.*.*.*",
        "fd00::1",
        "[fd00::1]",
        "[FD00::1]:22",
        "fd00::/8",
        "[fd00::/8]:22",
        "[fd00::]/8:22",
        "::ffff:10.0.0.5",
        "[::ffff:10.0.0.0]/104",
        "0.0.0.0/0",
    ];
    assert_snapshot!(table(given.map(|text| (text, read(text)))), @"
    API.x.com.                       api.x.com
    *.X.com                          *.x.com
    x.com:443                        x.com:443
    x.com:*                          x.com:*
    x.com:8000-8100                  x.com:8000-8100
    x.com:80-80                      x.com:80
     x.com                           x.com
    x.*                              x.*
    api-*.x.com                      api-*.x.com
    *                                *
    *:*                              *
    *:443                            *:443
    10.0.0.5                         10.0.0.5
    10.0.0.5:*                       10.0.0.5
    10.0.0.5:22                      10.0.0.5:22
    10.0.0.0/8                       10.0.0.0/8
    10.0.0.0/8:5432                  10.0.0.0/8:5432
    10.1.*                           10.1.0.0/16
    10.*.*.*                         10.0.0.0/8
    fd00::1                          fd00::1
    [fd00::1]                        fd00::1
    [FD00::1]:22                     [fd00::1]:22
    fd00::/8                         fd00::/8
    [fd00::/8]:22                    [fd00::/8]:22
    [fd00::]/8:22                    [fd00::/8]:22
    ::ffff:10.0.0.5                  10.0.0.5
    [::ffff:10.0.0.0]/104            10.0.0.0/8
    0.0.0.0/0                        0.0.0.0/0
    ");
}

#[test]
fn each_mistake_has_a_line() {
    let given = [
        "",
        "https://x.com/",
        "x.com/path",
        "x.com:",
        "x.com:0",
        "x.com:90-80",
        "x.com:http",
        "x.com:80:90",
        "**.x.com",
        "10.0.0.5/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "fd00::/129",
        "10.*.1.1",
        "10.1.*.*.*",
        "300.*",
        "127.1",
        "0x7f.1",
        "[fd00::1",
        "bücher.de",
        "*.bücher.de",
        "a b.com",
        "-x.*",
        "*..com",
        "x?.com",
        "[ab].com",
    ];
    assert_snapshot!(table(given.map(|text| (text, read(text)))), @r#"
                                     ! "": a host name cannot be empty
    https://x.com/                   ! "https://x.com/": a host is wanted, not a URL
    x.com/path                       ! "x.com/path": a host is wanted, not a URL
    x.com:                           ! "x.com:": a port is a number from 1 to 65535, a range (8000-8100) or *
    x.com:0                          ! "x.com:0": a port is a number from 1 to 65535, a range (8000-8100) or *
    x.com:90-80                      ! "x.com:90-80": a port is a number from 1 to 65535, a range (8000-8100) or *
    x.com:http                       ! "x.com:http": a port is a number from 1 to 65535, a range (8000-8100) or *
    x.com:80:90                      ! "x.com:80:90": not an IPv6 address
    **.x.com                         ! "**.x.com": ** means nothing more than *: *.x.com is every name below x.com
    10.0.0.5/8                       ! "10.0.0.5/8": the address has bits beyond /8; the network is 10.0.0.0/8
    10.0.0.0/33                      ! "10.0.0.0/33": after the slash comes the number of leading bits, at most 32 for IPv4 and 128 for IPv6
    10.0.0.0/                        ! "10.0.0.0/": after the slash comes the number of leading bits, at most 32 for IPv4 and 128 for IPv6
    fd00::/129                       ! "fd00::/129": after the slash comes the number of leading bits, at most 32 for IPv4 and 128 for IPv6
    10.*.1.1                         ! "10.*.1.1": * in an address can only stand for its last numbers (10.1.*)
    10.1.*.*.*                       ! "10.1.*.*.*": * in an address can only stand for its last numbers (10.1.*)
    300.*                            ! "300.*": a host name cannot end in a number; an IPv4 address has four decimal numbers (127.0.0.1)
    127.1                            ! "127.1": a host name cannot end in a number; an IPv4 address has four decimal numbers (127.0.0.1)
    0x7f.1                           ! "0x7f.1": a host name cannot end in a number; an IPv4 address has four decimal numbers (127.0.0.1)
    [fd00::1                         ! "[fd00::1": not an IPv6 address
    bücher.de                        ! "bücher.de": a host name beyond ASCII is to be written in punycode (xn--…)
    *.bücher.de                      ! "*.bücher.de": a host name beyond ASCII is to be written in punycode (xn--…)
    a b.com                          ! "a b.com": ' ' cannot be part of a host name
    -x.*                             ! "-x.*": a host name cannot begin with -
    *..com                           ! "*..com": the parts of a host name have 1 to 63 characters
    x?.com                           ! "x?.com": '?' cannot be part of a host name
    [ab].com                         ! "[ab].com": not an IPv6 address
    "#);
    let given = ["10.0.0.5", "10.0.0.0/8", "db.corp", "*.corp", "fd00::1", "10.0.0.5:80", "[fd00::1]:80"];
    let read = |text: &str| match text.parse::<PrivateTarget>() {
        Ok(target) => target.to_string(),
        Err(error) => format!("! {error}"),
    };
    assert_snapshot!(table(given.map(|text| (text, read(text)))), @r#"
    10.0.0.5                         10.0.0.5
    10.0.0.0/8                       10.0.0.0/8
    db.corp                          db.corp
    *.corp                           *.corp
    fd00::1                          fd00::1
    10.0.0.5:80                      ! "10.0.0.5:80": whom a private address is allowed to is said without a port; --allow-host says the ports
    [fd00::1]:80                     ! "[fd00::1]:80": whom a private address is allowed to is said without a port; --allow-host says the ports
    "#);
}

#[test]
fn whom_a_target_means() {
    let hosts = |target: &str| {
        let target: Target = target.parse().unwrap();
        let all = [
            "x.com",
            "api.x.com",
            "a.b.x.com",
            "evil-x.com",
            "x.com.evil.org",
            "x.org",
            "x.co.uk",
            "api-1.x.com",
            "api-1.a.x.com",
            "10.1.2.3",
            "10.2.0.1",
            "::ffff:10.1.2.3",
            "fd00::1",
        ];
        let means = |text: &&str| match text.parse::<Host>().unwrap() {
            Host::Name(name) => target.hosts().has_name(&name),
            Host::Address(address) => target.hosts().has_address(address),
        };
        all.into_iter().filter(means).collect::<Vec<_>>().join(" ")
    };
    let given = [
        "x.com",
        "*.x.com",
        "x.*",
        "*.*",
        "*x.com",
        "api-*.x.com",
        "*.api*.x.com",
        "*.*.x.com",
        "10.1.*",
        "10.0.0.0/8",
        "fd00::/8",
        "0.0.0.0/0",
        "*",
    ];
    assert_snapshot!(table(given.map(|text| (text, hosts(text)))), @"
    x.com                            x.com
    *.x.com                          api.x.com a.b.x.com api-1.x.com api-1.a.x.com
    x.*                              x.com x.org
    *.*                              x.com api.x.com a.b.x.com evil-x.com x.com.evil.org x.org x.co.uk api-1.x.com api-1.a.x.com
    *x.com                           x.com evil-x.com
    api-*.x.com                      api-1.x.com
    *.api*.x.com
    *.*.x.com                        a.b.x.com api-1.a.x.com
    10.1.*                           10.1.2.3 ::ffff:10.1.2.3
    10.0.0.0/8                       10.1.2.3 10.2.0.1 ::ffff:10.1.2.3
    fd00::/8                         fd00::1
    0.0.0.0/0                        10.1.2.3 10.2.0.1 ::ffff:10.1.2.3
    *                                x.com api.x.com a.b.x.com evil-x.com x.com.evil.org x.org x.co.uk api-1.x.com api-1.a.x.com 10.1.2.3 10.2.0.1 ::ffff:10.1.2.3 fd00::1
    ");
}

#[test]
fn which_ports_a_target_means() {
    let ports = |target: &str| {
        let target: Target = target.parse().unwrap();
        [22, 80, 443, 8000, 8080]
            .iter()
            .filter(|port| target.has_port(**port))
            .map(u16::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let given =
        ["x.com", "*.x.com", "x.com:*", "x.com:22", "x.com:8000-8100", "10.0.0.5", "10.0.0.0/8:80", "*", "*:443"];
    assert_snapshot!(table(given.map(|text| (text, ports(text)))), @"
    x.com                            80 443
    *.x.com                          80 443
    x.com:*                          22 80 443 8000 8080
    x.com:22                         22
    x.com:8000-8100                  8000 8080
    10.0.0.5                         22 80 443 8000 8080
    10.0.0.0/8:80                    80
    *                                22 80 443 8000 8080
    *:443                            443
    ");
}

fn label() -> impl Strategy<Value = String> {
    "[a-z_][a-z0-9-]{0,6}"
}

fn names() -> impl Strategy<Value = String> {
    proptest::collection::vec(label(), 1..5).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn a_suffix_means_what_ends_in_a_dot_and_it_and_nothing_else(suffix in names(), other in "[a-z.-]{0,9}", between in "\\.?") {
        let target: Target = format!("*.{suffix}").parse().unwrap();
        prop_assert!(!target.hosts().has_name(&name(&suffix)));
        if let Ok(name) = format!("{other}{between}{suffix}").parse::<Name>() {
            prop_assert_eq!(target.hosts().has_name(&name), name.as_str().ends_with(&format!(".{suffix}")));
        }
    }

    #[test]
    fn a_name_means_itself(one in names(), other in names()) {
        let target: Target = one.parse().unwrap();
        prop_assert!(target.hosts().has_name(&name(&one.to_uppercase())));
        prop_assert_eq!(target.hosts().has_name(&name(&other)), one == other);
    }

    /// Another matcher, slow and plain: every way to let the stars stand for something.
    #[test]
    fn a_star_inside_a_label_is_any_part_of_it(pattern in "[ab*]{1,6}", label in "[ab]{1,6}") {
        fn plain(pattern: &[u8], label: &[u8]) -> bool {
            match (pattern.split_first(), label.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), None) => plain(rest, label),
                (Some((b'*', rest)), Some((_, shorter))) => plain(rest, label) || plain(pattern, shorter),
                (Some((a, pattern)), Some((b, label))) => a == b && plain(pattern, label),
                _ => false,
            }
        }
        if let Ok(target) = format!("x.{pattern}.com").parse::<Target>() {
            let means = target.hosts().has_name(&name(&format!("x.{label}.com")));
            prop_assert_eq!(means, plain(pattern.as_bytes(), label.as_bytes()));
            let deeper = format!("x.{label}.{label}.com");
            prop_assert!(!target.hosts().has_name(&name(&deeper)));
        }
    }

    #[test]
    fn what_is_shown_parses_to_the_same(text in "[a-c*.0-9:/\\[\\]-]{1,14}|[*a.]{1,9}(:[0-9*-]{1,6})?|[0-9a-f:.]{1,20}/[0-9]{1,3}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
        if let Ok(target) = text.parse::<PrivateTarget>() {
            prop_assert_eq!(target.to_string().parse::<PrivateTarget>(), Ok(target));
        }
    }

    #[test]
    fn reading_a_target_never_panics(text in any::<String>()) {
        let _ = text.parse::<Target>();
    }

    #[test]
    fn a_network_has_what_shares_its_bits(base in any::<u32>(), other in any::<u32>(), prefix in 0..=32_u8) {
        let network = IpNetwork::around(IpAddr::from(base.to_be_bytes()), prefix);
        let shared = u8::try_from((base ^ other).leading_zeros()).unwrap();
        prop_assert!(network.contains(IpAddr::from(base.to_be_bytes())));
        prop_assert_eq!(network.contains(IpAddr::from(other.to_be_bytes())), shared >= prefix);
        prop_assert_eq!(format!("{network}").parse::<Target>().unwrap().to_string(), network.to_string());
    }
}
