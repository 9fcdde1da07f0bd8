//! What stands where a host is asked for: in a URL, a `Host` header, an SNI.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

use super::{Name, NameError};

/// A name or an address, each in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(Name),
    /// An address; never IPv4 in IPv6's clothes (`::ffff:10.0.0.5` is 10.0.0.5).
    Address(IpAddr),
}

/// Why a text is no host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// It is no name, and nothing else either.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It has colons or brackets and is no IPv6 address.
    #[error("not an IPv6 address")]
    Ipv6,
    /// What follows the host's colon.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl Host {
    /// A host and the port after it, as in a URL or a `Host` header (RFC 3986, section 3.2): an IPv6 address with a port has to
    /// stand in brackets.
    ///
    /// # Errors
    /// If it is neither a name nor an address, or the port is none.
    pub fn with_port(text: &str) -> Result<(Self, Option<u16>), HostError> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        Ok((host.parse()?, port.map(parse_port).transpose()?))
    }
}

/// A port number, digits only: Rust would take `+80`, too.
pub(super) fn parse_port(text: &str) -> Result<u16, HostError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0).ok_or(HostError::Port)
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.contains([':', '[', ']']) {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            let address: Ipv6Addr = bare.parse().map_err(|_| HostError::Ipv6)?;
            return Ok(Self::Address(address.to_canonical()));
        }
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => Ok(Self::Name(text.parse()?)),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}
