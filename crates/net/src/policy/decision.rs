//! What was decided and why, in the words that people read. Nobody else phrases a denial: events, 403 pages, logs and
//! `policy explain` all say what stands here.

use std::{fmt, net::IpAddr};

use super::{AddressClass, Host, Name, PrivateTarget, Target};

/// The verdict of a [`Policy`](super::Policy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allowed(Allowed),
    /// Refuse, and tell.
    Denied(Denied),
}

/// What allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The rule.
    pub rule: Rule,
    /// The name by which it is allowed. `None` if the address is: then nothing else than this address may be dialled.
    pub name: Option<Name>,
    /// What opened an address that is not public.
    pub opened: Option<PrivateTarget>,
}

/// A rule that allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// There are no rules: the sandbox's network is open.
    Open,
    /// `--allow-host`, or what stands for it.
    AllowHost(Target),
    /// `--add-host`: the answer is known without asking anybody.
    AddHost,
}

/// What was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No rule has this name.
    Name(Name),
    /// Rules have this name, but not with this port.
    Port {
        /// The name.
        name: Name,
        /// What was asked for.
        port: u16,
    },
    /// No rule has this name or address with any port.
    Host {
        /// The name that it was asked for by, if there was one.
        name: Option<Name>,
        /// The address.
        address: IpAddr,
        /// What was asked for.
        port: u16,
        /// The address's class: if it is not public, allowing the host alone will not do.
        class: AddressClass,
    },
    /// The address is not public and nothing opens it.
    Address {
        /// The name that led there, if one did.
        name: Option<Name>,
        /// The address.
        address: IpAddr,
        /// Why it is refused.
        class: AddressClass,
    },
    /// Nothing but TCP can be intercepted.
    Protocol {
        /// What it was.
        protocol: Protocol,
        /// Where it was to go.
        address: IpAddr,
        /// The port, 0 if the protocol has none.
        port: u16,
    },
    /// The guest has connected to an address and asks there for somebody whose address it is not.
    Elsewhere {
        /// Whom it asks for.
        host: Host,
        /// Where.
        address: IpAddr,
    },
    /// The guest has made TLS with one host and asks there for another.
    Fronted {
        /// Whom it asks for.
        host: Host,
        /// Whom the TLS is with.
        front: Name,
    },
}

/// What a guest speaks above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and `ICMPv6`: echo.
    Icmp,
}

impl Decision {
    /// Whether to go on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The refusal, if it is one.
    #[must_use]
    pub fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Allowed(_) => None,
            Self::Denied(denied) => Some(denied),
        }
    }
}

impl Denied {
    /// What was asked for: `api.x.com`, `api.x.com:8443`, `[2001:db8::1]:22`.
    #[must_use]
    pub fn destination(&self) -> String {
        match self {
            Self::Name(name) | Self::Address { name: Some(name), .. } => name.to_string(),
            Self::Elsewhere { host, .. } | Self::Fronted { host, .. } => host.to_string(),
            Self::Address { name: None, address, .. } | Self::Protocol { address, port: 0, .. } => address.to_string(),
            Self::Port { name, port } | Self::Host { name: Some(name), port, .. } => format!("{name}:{port}"),
            Self::Host { name: None, address, port, .. } | Self::Protocol { address, port, .. } => {
                std::net::SocketAddr::new(*address, *port).to_string()
            }
        }
    }

    /// Why, in a fragment that stands alone: `host not in allowlist`, `10.0.0.5 is a private address`.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            // These words are known to clients of the first Matchlock.
            Self::Name(_) | Self::Host { .. } => "host not in allowlist".to_owned(),
            Self::Port { port, .. } => format!("host not in allowlist with port {port}"),
            Self::Address { address, class, .. } => format!("{address} is {class}"),
            Self::Protocol { protocol, .. } => format!("{protocol} cannot be intercepted"),
            Self::Elsewhere { address, .. } => format!("asked for at {address}, which it was not resolved to"),
            Self::Fronted { front, .. } => format!("asked for on a connection whose TLS is with {front}"),
        }
    }

    /// The reason, and the flag that would help: the whole story where the destination was told.
    #[must_use]
    pub fn why(&self) -> String {
        match self.flag() {
            Some(flag) => format!("{} ({flag} would allow it)", self.reason()),
            None => self.reason(),
        }
    }

    /// The flags that would allow it, least first; `None` if none does.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(format!("--allow-host {name}")),
            Self::Port { name, port } => Some(format!("--allow-host {name}:{port}")),
            Self::Host { class, .. } if !class.opens_by_address() => None,
            Self::Host { name, address, port, class } => {
                let host = match name {
                    Some(name) if super::WEB_PORTS.contains(port) => name.to_string(),
                    _ => self.destination(),
                };
                let private =
                    if class.is_public() { String::new() } else { format!(" --allow-private-host {address}") };
                Some(format!("--allow-host {host}{private}"))
            }
            Self::Address { address, class, .. } => {
                class.opens_by_address().then(|| format!("--allow-private-host {address}"))
            }
            Self::Protocol { .. } | Self::Elsewhere { .. } | Self::Fronted { .. } => None,
        }
    }
}

/// The whole story in a line.
impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.destination(), self.why())
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)?;
        match &self.opened {
            Some(target) => write!(f, " and --allow-private-host {target}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("the open network"),
            Self::AllowHost(target) => write!(f, "--allow-host {target}"),
            Self::AddHost => f.write_str("--add-host"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        })
    }
}
