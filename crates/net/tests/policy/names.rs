//! Names have one spelling, and addresses are no names.

use insta::assert_snapshot;
use matchlock_net::policy::{Host, MAX_NAME, Name};
use proptest::prelude::*;

use crate::table;

fn read(text: &str) -> String {
    match Host::with_port(text) {
        Ok((Host::Name(name), port)) => {
            format!("name {name}{}", port.map(|port| format!(", port {port}")).unwrap_or_default())
        }
        Ok((Host::Address(address), port)) => {
            format!("address {address}{}", port.map(|port| format!(", port {port}")).unwrap_or_default())
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_stands_for_a_host() {
    let given = [
        "API.Example.COM.",
        "_dmarc.x.com:25",
        "xn--bcher-kva.example",
        "r3---sn-abc.video.com",
        "foo-.tumblr.com",
        "10.0.0.5:80",
        "[2001:DB8::1]:443",
        "2001:db8::1",
        "::ffff:10.0.0.5",
        "1.2.3.4.in-addr.arpa",
        "",
        ".",
        "x..com",
        "x.com..",
        ".x.com",
        "-x.com",
        "bücher.example",
        "x\0.com",
        "x.com\n",
        " x.com",
        "x.com/path",
        "user@x.com",
        "[::1",
        "[10.0.0.1]:80",
        "[fe80::1%eth0]",
        "x.com:0",
        "x.com:+80",
        "x.com:65536",
    ];
    assert_snapshot!(table(given.map(|text| (format!("{text:?}"), read(text)))), @r#"
    "API.Example.COM."               name api.example.com
    "_dmarc.x.com:25"                name _dmarc.x.com, port 25
    "xn--bcher-kva.example"          name xn--bcher-kva.example
    "r3---sn-abc.video.com"          name r3---sn-abc.video.com
    "foo-.tumblr.com"                name foo-.tumblr.com
    "10.0.0.5:80"                    address 10.0.0.5, port 80
    "[2001:DB8::1]:443"              address 2001:db8::1, port 443
    "2001:db8::1"                    address 2001:db8::1
    "::ffff:10.0.0.5"                address 10.0.0.5
    "1.2.3.4.in-addr.arpa"           name 1.2.3.4.in-addr.arpa
    ""                               a host name cannot be empty
    "."                              a host name cannot be empty
    "x..com"                         the parts of a host name have 1 to 63 characters
    "x.com.."                        the parts of a host name have 1 to 63 characters
    ".x.com"                         the parts of a host name have 1 to 63 characters
    "-x.com"                         a host name cannot begin with -
    "bücher.example"                 a host name beyond ASCII is to be written in punycode (xn--…)
    "x\0.com"                        '\0' cannot be part of a host name
    "x.com\n"                        '\n' cannot be part of a host name
    " x.com"                         ' ' cannot be part of a host name
    "x.com/path"                     '/' cannot be part of a host name
    "user@x.com"                     '@' cannot be part of a host name
    "[::1"                           not an IPv6 address
    "[10.0.0.1]:80"                  not an IPv6 address
    "[fe80::1%eth0]"                 not an IPv6 address
    "x.com:0"                        a port is a number from 1 to 65535
    "x.com:+80"                      a port is a number from 1 to 65535
    "x.com:65536"                    a port is a number from 1 to 65535
    "#);
}

#[test]
fn an_address_in_another_spelling_is_neither_a_name_nor_an_address() {
    let spellings = [
        "0x7f.1",
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "0x7F000001",
        "127.0.0.1.",
        "0x7f.0.0.0x1.",
        "1.2.3.4.5",
        "00.0x",
        "256.256.256.256",
        "localhost.0x7f",
        "0x",
        "999999999999999999999",
    ];
    for text in spellings {
        assert!(text.parse::<Name>().is_err(), "{text}");
        assert!(text.parse::<Host>().is_err(), "{text}");
    }
}

#[test]
fn lengths() {
    let label = "a".repeat(63);
    assert!(format!("{label}.com").parse::<Name>().is_ok());
    assert!(format!("a{label}.com").parse::<Name>().is_err());
    let longest = [&*label, &*label, &*label, &"a".repeat(61)].join(".");
    assert_eq!(longest.len(), MAX_NAME);
    assert!(format!("{longest}.").parse::<Name>().is_ok());
    assert!(format!("{longest}a").parse::<Name>().is_err());
}

proptest! {
    #[test]
    fn a_name_is_its_own_spelling(text in "[ -~]{0,20}|[a-zA-Z0-9_.-]{1,40}") {
        if let Ok(name) = text.parse::<Name>() {
            prop_assert_eq!(&name.to_string().parse::<Name>(), &Ok(name.clone()));
            prop_assert_eq!(&text.to_ascii_uppercase().parse::<Name>(), &Ok(name.clone()));
            prop_assert_eq!(&format!("{name}.").parse::<Name>(), &Ok(name.clone()));
            prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
        }
    }

    /// `inet_aton` reads one to four numbers, each decimal, octal or hexadecimal, and ignores what follows a space.
    #[test]
    fn no_spelling_of_an_ipv4_address_is_a_name(
        numbers in proptest::collection::vec((any::<u32>(), 0..3), 1..=4),
        end in prop::sample::select(vec!["", ".", " ", " x"]),
    ) {
        let spelt = numbers.iter().map(|(number, base)| match base {
            0 => number.to_string(),
            1 => format!("0{number:o}"),
            _ => format!("0x{number:X}"),
        });
        let text = spelt.collect::<Vec<_>>().join(".") + end;
        prop_assert!(text.parse::<Name>().is_err(), "{}", text);
    }

    #[test]
    fn reading_a_host_never_panics(text in any::<String>()) {
        let _ = Host::with_port(&text);
    }
}
