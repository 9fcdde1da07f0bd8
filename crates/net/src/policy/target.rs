//! What `--allow-host` and `--allow-private-host` take.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use thiserror::Error;

use super::{Host, HostError, HostPattern, Name, PatternError, host::parse_port};

/// The ports that a name without a port means: HTTP and HTTPS.
pub const WEB_PORTS: [u16; 2] = [80, 443];

/// Hosts and the ports that may be used there: `api.x.com`, `db.x.com:5432`, `x.com:*`, `10.0.0.0/8:8000-8100`,
/// `[2001:db8::1]:443`.
///
/// A name without a port means [`WEB_PORTS`], an address, or `*`, any port. What is shown is what was meant: equal targets
/// are shown alike, and parse to themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    hosts: HostPattern,
    ports: Ports,
}

/// Hosts that may have a private address: a name, an address or a range, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrivateTarget(HostPattern);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ports {
    Web,
    Any,
    Range(RangeInclusive<u16>),
}

/// A word of the user that is no target; one line, with the word.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?}: {why}")]
pub struct TargetError {
    text: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum Why {
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("a port is a number from 1 to 65535, a range (8000-8100) or *")]
    Port,
    #[error("whom a private address is allowed to is said without a port; --allow-host says the ports")]
    PortOfPrivate,
}

impl Target {
    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &HostPattern {
        &self.hosts
    }

    /// All ports of these hosts.
    #[must_use]
    pub fn any_port(hosts: HostPattern) -> Self {
        Self { hosts, ports: Ports::Any }
    }

    /// Whether it means this host with this port.
    #[must_use]
    pub fn has(&self, host: &Host, port: u16) -> bool {
        self.has_port(port) && self.hosts.has(host)
    }

    /// Whether this port is among those of its hosts.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        match &self.ports {
            Ports::Web => WEB_PORTS.contains(&port),
            Ports::Any => true,
            Ports::Range(range) => range.contains(&port),
        }
    }
}

impl PrivateTarget {
    /// Whether the address itself, or its range, was written.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        matches!(&self.0, HostPattern::Network(network) if network.contains(address))
    }

    /// Whether it is this address alone.
    #[must_use]
    pub fn is_address(&self, address: IpAddr) -> bool {
        matches!(&self.0, HostPattern::Network(network) if network.is_single() && network.contains(address))
    }

    /// Whether it means this name.
    #[must_use]
    pub fn has_name(&self, name: &Name) -> bool {
        self.0.has_name(name)
    }

    /// Whether it is `*`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == HostPattern::Any
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let parse = |text: &str| {
            let (hosts, ports) = split(text);
            let hosts: HostPattern = hosts.parse()?;
            let by_name = matches!(hosts, HostPattern::Name(_) | HostPattern::Names(_));
            let ports = match ports {
                None if by_name => Ports::Web,
                None | Some("*") => Ports::Any,
                Some(ports) => Ports::Range(range(ports)?),
            };
            Ok(Self { hosts, ports })
        };
        parse(text.trim()).map_err(|why| TargetError { text: text.to_owned(), why })
    }
}

impl FromStr for PrivateTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let parse = |text: &str| match split(text) {
            (hosts, None) => Ok(Self(hosts.parse().map_err(Why::Pattern)?)),
            (_, Some(_)) => Err(Why::PortOfPrivate),
        };
        parse(text.trim()).map_err(|why| TargetError { text: text.to_owned(), why })
    }
}

/// What is before the colon that a port follows, and the port. Several colons without brackets are an IPv6 address.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        // `https://x.com` has no port; what is wrong with it is told of the whole.
        Some((_, rest)) if rest.starts_with("//") => (text, None),
        Some((host, ports)) if !host.contains(':') || host.starts_with('[') && host.contains(']') => {
            (host, Some(ports))
        }
        _ => (text, None),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, Why> {
    let port = |text| parse_port(text).map_err(|_: HostError| Why::Port);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = port(first)?..=port(last)?;
    if range.is_empty() { Err(Why::Port) } else { Ok(range) }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_name = matches!(self.hosts, HostPattern::Name(_) | HostPattern::Names(_));
        let ports = match &self.ports {
            Ports::Web => None,
            Ports::Any => by_name.then(|| "*".to_owned()),
            Ports::Range(range) if range.start() == range.end() => Some(range.start().to_string()),
            Ports::Range(range) => Some(format!("{}-{}", range.start(), range.end())),
        };
        match (&self.hosts, ports) {
            (hosts, None) => hosts.fmt(f),
            (HostPattern::Network(network), Some(ports)) if network.is_ipv6() => write!(f, "[{network}]:{ports}"),
            (hosts, Some(ports)) => write!(f, "{hosts}:{ports}"),
        }
    }
}

impl fmt::Display for PrivateTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
