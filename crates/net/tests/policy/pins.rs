//! Which names an address is remembered for, and for how long.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use matchlock_net::policy::{MAX_PINNED_ADDRESSES, MAX_PINNED_NAMES, PIN_AT_LEAST, PIN_AT_MOST, Pins};

use crate::{ip, name};

fn address(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(u32::try_from(number).unwrap()).into()
}

#[test]
fn several_names_share_an_address() {
    let (mut pins, now) = (Pins::default(), Instant::now());
    pins.pin(&name("a.com"), &[ip("1.2.3.4"), ip("2600::1")], Duration::ZERO, now);
    pins.pin(&name("b.com"), &[ip("::ffff:1.2.3.4")], Duration::ZERO, now);
    pins.pin(&name("a.com"), &[ip("1.2.3.4")], Duration::ZERO, now);
    assert_eq!(pins.names(ip("1.2.3.4"), now), ["a.com", "b.com"].map(name));
    assert_eq!(pins.names(ip("2600::1"), now), [name("a.com")]);
    assert_eq!(pins.names(ip("1.2.3.5"), now), []);
}

#[test]
fn a_pin_ends_with_its_ttl_but_neither_at_once_nor_never() {
    let (mut pins, now) = (Pins::default(), Instant::now());
    let hour = Duration::from_hours(1);
    for (text, ttl) in [("short.com", Duration::ZERO), ("hour.com", hour), ("long.com", Duration::MAX)] {
        pins.pin(&name(text), &[ip("1.2.3.4")], ttl, now);
    }
    let around = |end: Duration| {
        let before = end.saturating_sub(Duration::from_secs(1));
        [before, end].map(|after| pins.names(ip("1.2.3.4"), now + after).len())
    };
    assert_eq!([PIN_AT_LEAST, hour, PIN_AT_MOST].map(around), [[3, 2], [2, 1], [1, 0]]);
}

#[test]
fn what_was_not_used_for_the_longest_time_makes_room() {
    let (mut pins, start) = (Pins::default(), Instant::now());
    let at = |number: usize| start + Duration::from_millis(number.try_into().unwrap());
    for number in 0..MAX_PINNED_ADDRESSES {
        pins.pin(&name("a.com"), &[address(number)], PIN_AT_MOST, at(number));
    }
    assert_eq!(pins.names(address(0), at(MAX_PINNED_ADDRESSES)).len(), 1);
    pins.pin(&name("b.com"), &[address(MAX_PINNED_ADDRESSES)], PIN_AT_MOST, at(MAX_PINNED_ADDRESSES + 1));
    assert_eq!(pins.len(), MAX_PINNED_ADDRESSES);
    let now = at(MAX_PINNED_ADDRESSES + 2);
    assert_eq!(pins.names(address(0), now).len(), 1, "it was used");
    assert_eq!(pins.names(address(1), now).len(), 0, "it was the oldest");
    // What is over goes first, all at once.
    pins.pin(&name("c.com"), &[ip("2600::1")], Duration::ZERO, now + PIN_AT_MOST);
    assert_eq!(pins.len(), 1);
}

#[test]
fn one_address_has_a_bounded_number_of_names() {
    let (mut pins, now) = (Pins::default(), Instant::now());
    for number in 0..=MAX_PINNED_NAMES {
        pins.pin(&name(&format!("n{number}.com")), &[ip("1.2.3.4")], PIN_AT_MOST, now);
    }
    let names = pins.names(ip("1.2.3.4"), now);
    assert_eq!(names.len(), MAX_PINNED_NAMES);
    assert!(!names.contains(&name("n0.com")));
}
