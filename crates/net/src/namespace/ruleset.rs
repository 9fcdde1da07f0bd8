//! What of a guest's packets goes where in its namespace, as a value; and how it is put into force, at once, by `nft`.
//!
//! Invariant: `input` is the gate, and it is shut (`policy drop`) but for what is named in it. `arrive` only chooses the
//! socket. Nothing is tracked, so there is no table of connections that a guest could fill.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{Error, LINK, Plan, doors};

/// The rules of one sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ruleset<'a>(pub(super) &'a Plan);

impl fmt::Display for Ruleset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { addressing: a, ipv6, udp } = self.0;
        let door = doors::PORT;
        // Where the host cannot go, the guest learns it at once and tries IPv4.
        let ipv6 = if *ipv6 { "" } else { "        meta nfproto ipv6 goto refuse\n" };
        let udp = if *udp { "accept" } else { "goto refuse" };
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
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip saddr != {guest4} drop
        ip6 saddr != {guest6} drop
        meta pkttype != host drop
        ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 }} drop
        ip6 daddr {{ ::/80, fe80::/10, ff00::/8 }} drop
        icmp type echo-request accept
        icmpv6 type echo-request accept
        tcp dport 53 accept
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
    chain forward {{
        type filter hook forward priority filter; policy drop;
    }}
}}
"#,
            guest4 = a.guest4,
            guest6 = a.guest6,
            gateway4 = a.gateway4,
            prefix4 = a.prefix4,
            gateway6 = a.gateway6,
            prefix6 = a.prefix6,
        )
    }
}

/// `nft` at work. It goes by names only, so it need not wait for the link to exist.
pub(super) struct Applying(Child);

impl Ruleset<'_> {
    /// Have `nft` put the rules into force in the namespace of the calling thread, as one transaction.
    pub(super) fn apply(self) -> Result<Applying, Error> {
        let mut child = Command::new(find()?)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::step("start nft", &e))?;
        // A pipe holds far more than these rules.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| write!(stdin, "{self}"));
        match written {
            // It went away without reading, and has said why.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::step("tell nft the rules", &e)),
            _ => Ok(Applying(child)),
        }
    }
}

impl Applying {
    pub(super) fn done(self) -> Result<(), Error> {
        let output = self.0.wait_with_output().map_err(|e| Error::step("wait for nft", &e))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::NftRefused(said.lines().next().unwrap_or("it did not say why").to_owned()))
    }
}

/// An ordinary user's `PATH` often leaves administrators' programs out.
fn find() -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual).map(|folder| folder.join("nft"));
    places.find(|program| program.is_file()).ok_or(Error::NftMissing)
}

#[cfg(test)]
mod tests {
    use super::{super::Addressing, *};

    #[test]
    fn the_rules() {
        let plan = Plan { addressing: Addressing::default(), ipv6: true, udp: true };
        insta::assert_snapshot!(Ruleset(&plan), @r#"
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
    fn what_the_host_or_the_policy_lacks_is_refused_with_an_answer() {
        let all = Plan { addressing: Addressing::default(), ipv6: true, udp: true };
        let less = Plan { ipv6: false, udp: false, ..all };
        let [all, less] = [all, less].map(|plan| Ruleset(&plan).to_string());
        let differs: Vec<_> = less.lines().filter(|line| !all.lines().any(|other| other == *line)).collect();
        assert_eq!(differs, ["        meta nfproto ipv6 goto refuse", "        meta l4proto udp goto refuse"]);
    }
}
