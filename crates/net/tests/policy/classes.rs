//! Every address is of one class, and only the Internet's are public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use insta::assert_snapshot;
use matchlock_net::policy::{AddressClass, Policy};
use proptest::prelude::*;

use crate::{ip, table};

#[test]
fn the_ends_of_every_range() {
    let given = [
        "0.0.0.0",
        "0.255.255.255",
        "1.0.0.0",
        "9.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "128.0.0.0",
        "168.63.129.16",
        "169.253.255.255",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "169.255.0.0",
        "172.15.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "172.32.0.0",
        "192.0.0.1",
        "192.0.1.0",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.20.0.0",
        "198.51.100.7",
        "203.0.113.7",
        "223.255.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
    ];
    assert_snapshot!(table(given.map(|text| (text, AddressClass::of(ip(text)).to_string()))), @"
    0.0.0.0                          an address of no machine
    0.255.255.255                    an address of no machine
    1.0.0.0                          a public address
    9.255.255.255                    a public address
    10.0.0.0                         a private address
    10.255.255.255                   a private address
    11.0.0.0                         a public address
    100.63.255.255                   a public address
    100.64.0.0                       a private address of the provider's network
    100.100.100.200                  a cloud metadata address
    100.127.255.255                  a private address of the provider's network
    100.128.0.0                      a public address
    126.255.255.255                  a public address
    127.0.0.1                        the host itself
    127.255.255.255                  the host itself
    128.0.0.0                        a public address
    168.63.129.16                    a cloud metadata address
    169.253.255.255                  a public address
    169.254.0.1                      an address of the local link
    169.254.169.254                  a cloud metadata address
    169.254.170.2                    a cloud metadata address
    169.255.0.0                      a public address
    172.15.255.255                   a public address
    172.16.0.0                       a private address
    172.31.255.255                   a private address
    172.32.0.0                       a public address
    192.0.0.1                        a reserved address
    192.0.1.0                        a public address
    192.0.2.1                        an address for examples
    192.88.99.1                      an address that tunnels to another
    192.168.0.0                      a private address
    192.168.255.255                  a private address
    192.169.0.0                      a public address
    198.17.255.255                   a public address
    198.18.0.0                       an address for measurements
    198.19.255.255                   an address for measurements
    198.20.0.0                       a public address
    198.51.100.7                     an address for examples
    203.0.113.7                      an address for examples
    223.255.255.255                  a public address
    224.0.0.1                        a multicast address
    239.255.255.255                  a multicast address
    240.0.0.1                        a reserved address
    255.255.255.254                  a reserved address
    255.255.255.255                  the broadcast address
    ");
}

#[test]
fn ipv6_and_the_ipv4_inside() {
    let given = [
        "::",
        "::1",
        "::2",
        "::10.0.0.5",
        "::8.8.8.8",
        "::ffff:10.0.0.5",
        "::ffff:8.8.8.8",
        "::ffff:169.254.169.254",
        "64:ff9b::10.0.0.5",
        "64:ff9b::8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::8.8.8.8",
        "2001:0:808:808::5601:5601",
        "2001:1ff::1",
        "2001:2::1",
        "2001:db8::1",
        "2001:4860:4860::8888",
        "2002:808:808::1",
        "2002:a9fe:a9fe::1",
        "2002:a00:5::1",
        "2600::1",
        "3ffe::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fbff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fdff::1",
        "fe00::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
    ];
    assert_snapshot!(table(given.map(|text| (text, AddressClass::of(ip(text)).to_string()))), @"
    ::                               an address of no machine
    ::1                              the host itself
    ::2                              an address that tunnels to another
    ::10.0.0.5                       an address that tunnels to another
    ::8.8.8.8                        an address that tunnels to another
    ::ffff:10.0.0.5                  a private address
    ::ffff:8.8.8.8                   a public address
    ::ffff:169.254.169.254           a cloud metadata address
    64:ff9b::10.0.0.5                a private address
    64:ff9b::8.8.8.8                 a public address
    64:ff9b::127.0.0.1               the host itself
    64:ff9b::a9fe:a9fe               a cloud metadata address
    64:ff9b:1::8.8.8.8               an address that tunnels to another
    100::1                           a reserved address
    2001::8.8.8.8                    an address that tunnels to another
    2001:0:808:808::5601:5601        a cloud metadata address
    2001:1ff::1                      a reserved address
    2001:2::1                        an address for measurements
    2001:db8::1                      an address for examples
    2001:4860:4860::8888             a public address
    2002:808:808::1                  an address that tunnels to another
    2002:a9fe:a9fe::1                a cloud metadata address
    2002:a00:5::1                    an address that tunnels to another
    2600::1                          a public address
    3ffe::1                          a public address
    3fff::1                          an address for examples
    4000::1                          a reserved address
    5f00::1                          a reserved address
    fbff::1                          a reserved address
    fc00::1                          a private address
    fd00:ec2::254                    a cloud metadata address
    fd20:ce::254                     a cloud metadata address
    fdff::1                          a private address
    fe00::1                          a reserved address
    fe80::1                          an address of the local link
    febf::1                          an address of the local link
    fec0::1                          a private address
    feff::1                          a private address
    ff02::1                          a multicast address
    ");
}

#[test]
fn an_address_of_this_machine_is_the_host_itself_in_every_form() {
    let policy = Policy { own_addresses: vec![ip("5.6.7.8"), ip("2600::1")], ..Policy::default() };
    for address in ["5.6.7.8", "::ffff:5.6.7.8", "64:ff9b::5.6.7.8", "2600::1"] {
        assert_eq!(policy.class(ip(address)), AddressClass::HostItself, "{address}");
    }
    assert_eq!(policy.class(ip("5.6.7.9")), AddressClass::Public);
}

/// What the standard library calls by these names, it calls so here. It is another reading of the same registries.
fn standard(address: Ipv4Addr) -> bool {
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || address.is_unspecified()
}

proptest! {
    #[test]
    fn nothing_that_the_standard_library_has_a_word_for_is_public(bits in any::<u32>(), byte in 0..=255_u8) {
        for bits in [bits, u32::from_be_bytes([byte, 254, 169, 254]), bits >> (byte % 32)] {
            let address = Ipv4Addr::from_bits(bits);
            prop_assert!(!(standard(address) && AddressClass::of(address.into()).is_public()), "{}", address);
        }
    }

    #[test]
    fn the_form_of_an_ipv4_address_does_not_make_it_public(bits in any::<u32>(), prefix in prop::sample::select(vec![
        0xffff_u128 << 32, 0, 0x64_ff9b_u128 << 96, 0x64_ff9b_0001_u128 << 80,
    ])) {
        let inner = AddressClass::of(Ipv4Addr::from_bits(bits).into());
        let outer = AddressClass::of(IpAddr::from(Ipv6Addr::from_bits(prefix | u128::from(bits))));
        prop_assert!(!outer.is_public() || inner.is_public());
        let six_to_four = Ipv6Addr::from_bits((0x2002_u128 << 112) | (u128::from(bits) << 80) | 1);
        prop_assert!(!AddressClass::of(six_to_four.into()).is_public());
        let teredo = Ipv6Addr::from_bits((0x2001_0000_u128 << 96) | u128::from(!bits));
        prop_assert!(!AddressClass::of(teredo.into()).is_public());
    }

    #[test]
    fn of_ipv6_only_global_unicast_and_nat64_can_be_public(bits in any::<u128>(), shift in 0..128_u32) {
        let address = Ipv6Addr::from_bits(bits >> shift);
        if AddressClass::of(address.into()).is_public() {
            let [first, second, ..] = address.segments();
            let via_ipv4 = address.to_ipv4_mapped().is_some() || (first, second) == (0x64, 0xff9b);
            prop_assert!(first & 0xe000 == 0x2000 || via_ipv4, "{}", address);
        }
    }
}
