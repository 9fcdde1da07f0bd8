//! What of a guest's packets goes where, as a value; and how it is put into force, at once, by `nft`.
//!
//! Invariant: the gate is shut (`policy drop`) but for what is named in it, and it is the same wherever the link is. `arrive` only
//! chooses the socket. Nothing is tracked, so there is no table of connections that a guest could fill.

use std::fmt;

use matchlock_netlink::{HostLink, Nft};

use super::{Error, LINK, Plan, doors};

/// The rules of one sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ruleset<'a> {
    pub(super) plan: &'a Plan,
    pub(super) place: Place<'a>,
}

/// Where the link is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// In a namespace of its own, where every packet is the guest's.
    Private,
    /// Among the host's links. The doors have ports of their own there.
    Host(&'a HostLink, Ports),
}

/// The ports of doors that have any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) tcp: u16,
    pub(super) udp: u16,
    pub(super) dns_tcp: u16,
    pub(super) dns_udp: u16,
}

impl Ruleset<'_> {
    /// Have `nft` begin to put the rules into force in the namespace of the calling thread, as one transaction.
    pub(super) fn apply(self) -> Result<Nft, Error> {
        Ok(Nft::start(&self.to_string())?)
    }
}

impl fmt::Display for Ruleset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Private => private(f, self.plan),
            Place::Host(link, ports) => on_host(f, self.plan, link, ports),
        }
    }
}

fn private(f: &mut fmt::Formatter<'_>, plan: &Plan) -> fmt::Result {
    let door = doors::PORT;
    let gate = Gate { plan, echo: true };
    write!(
        f,
        r#"table inet matchlock {{
    chain arrive {{
        type filter hook prerouting priority mangle; policy accept;
        tcp dport != 53 tproxy to :{door}
        udp dport != 53 tproxy to :{door}
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname != "{LINK}" drop
{gate}    chain forward {{
        type filter hook forward priority filter; policy drop;
    }}
}}
"#
    )
}

/// Here the gate is where packets come out of the link, before anything of the host's sees them; and what no door takes must not
/// get to another socket of the host's. Echoes the kernel itself would answer, for every address, so they are dropped.
fn on_host(
    f: &mut fmt::Formatter<'_>,
    plan: &Plan,
    link: &HostLink,
    Ports { tcp, udp, dns_tcp, dns_udp }: Ports,
) -> fmt::Result {
    let (name, table, mark) = (link.name(), link.table(), link.mark());
    let gate = Gate { plan, echo: false };
    write!(
        f,
        r#"table netdev {table} {{
    chain input {{
        type filter hook ingress device "{name}" priority filter; policy drop;
        meta mark set {mark:#x}
        meta protocol arp accept
{gate}}}
table inet {table} {{
    chain arrive {{
        type filter hook prerouting priority mangle; policy accept;
        iifname != "{name}" accept
        tcp dport 53 tproxy to :{dns_tcp} accept
        udp dport 53 tproxy to :{dns_udp} accept
        meta l4proto tcp tproxy to :{tcp} accept
        meta l4proto udp tproxy to :{udp} accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        drop
    }}
}}
"#
    )
}

/// The rest of the chain that lets in, and the one that refuses.
struct Gate<'a> {
    plan: &'a Plan,
    /// Whether the gateway answers echoes.
    echo: bool,
}

impl fmt::Display for Gate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { addressing: a, ipv6, udp } = self.plan;
        let echo = if self.echo {
            "        icmp type echo-request accept\n        icmpv6 type echo-request accept\n"
        } else {
            ""
        };
        // Where the host cannot go, the guest learns it at once and tries IPv4.
        let ipv6 = if *ipv6 { "" } else { "        meta protocol ip6 goto refuse\n" };
        let udp = if *udp { "accept" } else { "goto refuse" };
        write!(
            f,
            r"        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip saddr != {guest4} drop
        ip6 saddr != {guest6} drop
        meta pkttype != host drop
        ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 }} drop
        ip6 daddr {{ ::/80, fe80::/10, ff00::/8 }} drop
{echo}        tcp dport 53 accept
        udp dport 53 accept
        ip daddr {gateway4}/{prefix4} goto refuse
        ip6 daddr {gateway6}/{prefix6} goto refuse
{ipv6}        meta l4proto tcp accept
        meta l4proto udp {udp}
    }}
    chain refuse {{
        meta l4proto tcp reject with tcp reset
        meta l4proto udp reject with icmpx admin-prohibited
        drop
    }}
",
            guest4 = a.guest4,
            guest6 = a.guest6,
            gateway4 = a.gateway4,
            prefix4 = a.prefix4,
            gateway6 = a.gateway6,
            prefix6 = a.prefix6,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Addressing, *};

    #[test]
    fn the_rules() {
        let plan = Plan { addressing: Addressing::default(), ipv6: true, udp: true };
        insta::assert_snapshot!(Ruleset { plan: &plan, place: Place::Private }, @r#"
        table inet matchlock {
            chain arrive {
                type filter hook prerouting priority mangle; policy accept;
                tcp dport != 53 tproxy to :7000
                udp dport != 53 tproxy to :7000
            }
            chain input {
                type filter hook input priority filter; policy drop;
                iifname != "fc-guest" drop
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                ip saddr != 192.168.100.2 drop
                ip6 saddr != fd6d:6174:6368::2 drop
                meta pkttype != host drop
                ip daddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } drop
                ip6 daddr { ::/80, fe80::/10, ff00::/8 } drop
                icmp type echo-request accept
                icmpv6 type echo-request accept
                tcp dport 53 accept
                udp dport 53 accept
                ip daddr 192.168.100.1/30 goto refuse
                ip6 daddr fd6d:6174:6368::1/126 goto refuse
                meta l4proto tcp accept
                meta l4proto udp accept
            }
            chain refuse {
                meta l4proto tcp reject with tcp reset
                meta l4proto udp reject with icmpx admin-prohibited
                drop
            }
            chain forward {
                type filter hook forward priority filter; policy drop;
            }
        }
        "#);
    }

    #[test]
    fn the_rules_in_the_hosts_network() {
        let plan = Plan { addressing: Addressing::default(), ipv6: false, udp: true };
        let link = HostLink::of(0x0123_abcd);
        let place = Place::Host(&link, Ports { tcp: 40001, udp: 40002, dns_tcp: 40003, dns_udp: 40004 });
        insta::assert_snapshot!(Ruleset { plan: &plan, place }, @r#"
        table netdev matchlock_fc-0123abcd {
            chain input {
                type filter hook ingress device "fc-0123abcd" priority filter; policy drop;
                meta mark set 0x6d23abcd
                meta protocol arp accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                ip saddr != 192.168.100.2 drop
                ip6 saddr != fd6d:6174:6368::2 drop
                meta pkttype != host drop
                ip daddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } drop
                ip6 daddr { ::/80, fe80::/10, ff00::/8 } drop
                tcp dport 53 accept
                udp dport 53 accept
                ip daddr 192.168.100.1/30 goto refuse
                ip6 daddr fd6d:6174:6368::1/126 goto refuse
                meta protocol ip6 goto refuse
                meta l4proto tcp accept
                meta l4proto udp accept
            }
            chain refuse {
                meta l4proto tcp reject with tcp reset
                meta l4proto udp reject with icmpx admin-prohibited
                drop
            }
        }
        table inet matchlock_fc-0123abcd {
            chain arrive {
                type filter hook prerouting priority mangle; policy accept;
                iifname != "fc-0123abcd" accept
                tcp dport 53 tproxy to :40003 accept
                udp dport 53 tproxy to :40004 accept
                meta l4proto tcp tproxy to :40001 accept
                meta l4proto udp tproxy to :40002 accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                drop
            }
        }
        "#);
    }

    #[test]
    fn what_the_host_or_the_policy_lacks_is_refused_with_an_answer() {
        let all = Plan { addressing: Addressing::default(), ipv6: true, udp: true };
        let less = Plan { ipv6: false, udp: false, ..all };
        let [all, less] = [all, less].map(|plan| Ruleset { plan: &plan, place: Place::Private }.to_string());
        let differs: Vec<_> = less.lines().filter(|line| !all.lines().any(|other| other == *line)).collect();
        assert_eq!(differs, ["        meta protocol ip6 goto refuse", "        meta l4proto udp goto refuse"]);
    }
}
