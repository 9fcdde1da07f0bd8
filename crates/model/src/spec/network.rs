//! How a sandbox is connected, as it was asked for. What it means for a packet is decided elsewhere: this is the record.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::Interception;

/// Names and resolvers inside the guest, and what it may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The guest has loopback only.
    pub no_network: bool,
    /// The guest's host name; the sandbox's id where none was given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The resolvers that are asked on the guest's behalf; the host's own where none are given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// Additional lines for the guest's `/etc/hosts`. The allow-list may use their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_hosts: Vec<AddHost>,
    /// The allow-list: hosts with their ports, as `--allow-host` takes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// Hosts that may have a private address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_private_hosts: Vec<String>,
    /// Names whose TLS is left alone, if they are allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_passthrough: Vec<String>,
    /// Nothing is allowed but what stands here, even if that is nothing.
    #[serde(skip_serializing_if = "is_false")]
    pub intercept: bool,
    /// Bytes of the largest packet on the guest's link; [`Self::USUAL_MTU`] where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Rules about single requests. That there is something, even nothing, seals the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interception: Option<Interception>,
    /// Credentials that the gateway puts in, by the name of the variable that has the placeholder. Never a value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretSpec>,
}

/// One `--add-host` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddHost {
    /// The name.
    pub host: String,
    /// The address it stands for.
    pub ip: IpAddr,
}

/// A secret without its value, which no record has: it travels beside the specification, in memory only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    /// What the guest has instead.
    pub placeholder: String,
    /// Whom it is for, without ports. They are allowed with the web's.
    pub hosts: Vec<String>,
    /// It is replaced in bodies of requests, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub body: bool,
    /// It is replaced in requests without TLS, too, which the network can read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub without_tls: bool,
}

/// How a sandbox is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Not at all: loopback only.
    None,
    /// To everything public.
    Open,
    /// To what its allow-list has, seen by the gateway.
    Intercept,
}

impl Network {
    /// Bytes of a packet on a link where nothing else was asked for.
    pub const USUAL_MTU: u16 = 1500;
    /// The least that every link of IPv4 has to carry without questions (RFC 791, section 3.2). Below 1280, which is IPv6's
    /// least (RFC 8200, section 5), the guest has IPv4 only.
    pub const LEAST_MTU: u16 = 576;
    /// The most that a TAP takes: 65535 with the Ethernet header (Linux, `drivers/net/tun.c`).
    pub const MOST_MTU: u16 = 65521;

    /// What follows from what was asked for.
    #[must_use]
    pub fn mode(&self) -> NetworkMode {
        let sealed = self.intercept || self.interception.is_some();
        let sealed = sealed || !self.allowed_hosts.is_empty() || !self.secrets.is_empty();
        match (self.no_network, sealed) {
            (true, _) => NetworkMode::None,
            (false, true) => NetworkMode::Intercept,
            (false, false) => NetworkMode::Open,
        }
    }

    /// The link's MTU.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.unwrap_or(Self::USUAL_MTU)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_open_until_something_seals_it() {
        let open = Network::default();
        assert_eq!(open.mode(), NetworkMode::Open);
        let private = Network { allowed_private_hosts: vec!["10.0.0.5".to_owned()], ..open.clone() };
        assert_eq!(private.mode(), NetworkMode::Open);
        let allowed = Network { allowed_hosts: vec!["x.com".to_owned()], ..open.clone() };
        let secret = Network { secrets: [("KEY".to_owned(), SecretSpec::default())].into(), ..open.clone() };
        let forced = Network { intercept: true, ..open.clone() };
        let ruled = Network { interception: Some(Interception::default()), ..open };
        for sealed in [allowed, secret, forced, ruled] {
            assert_eq!(sealed.mode(), NetworkMode::Intercept);
            assert_eq!(Network { no_network: true, ..sealed }.mode(), NetworkMode::None);
        }
    }
}
