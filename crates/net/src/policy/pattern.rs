//! Which hosts a word of the user means: a name, a pattern of names, an address or a range of them.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;

use super::{
    Host, HostError, IpNetwork, Name, NameError,
    name::{check_label, check_length, is_number},
};

/// A set of hosts.
///
/// | pattern | means |
/// |---|---|
/// | `api.x.com` | this name |
/// | `*.x.com` | every name below it, however deep; not `x.com`, never `evil-x.com` |
/// | `x.*`, `api-*.x.com`, `a.*.x.com` | `*` is any part of one label: `x.org` is meant, `x.evil.org` is not |
/// | `10.1.2.3`, `10.0.0.0/8`, `2001:db8::1`, `fd00::/8`, `10.1.*` | these addresses |
/// | `*` | every name and every address |
///
/// The `*` inside a name does not cross a dot here, as it did in the first Matchlock: whoever writes `x.*` means the site's
/// other top-level domains, not `x.` below anybody's name. It does stand for anything within its label: `*x.com` means
/// `evil-x.com`, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every name and address.
    Any,
    /// One name.
    Name(Name),
    /// Many names.
    Names(NameGlob),
    /// Addresses.
    Network(IpNetwork),
}

/// Lower-case labels with `*`; a first label that is `*` alone stands for one or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameGlob(Box<str>);

/// Why a text is no pattern of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// As a host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It has `://` or a path.
    #[error("a host is wanted, not a URL")]
    Url,
    /// Two `*` in a row.
    #[error("** means nothing more than *: *.x.com is every name below x.com")]
    TwoStars,
    /// A `*` in an address that is not at its end.
    #[error("* in an address can only stand for its last numbers (10.1.*)")]
    AddressGlob,
    /// After the slash.
    #[error("after the slash comes the number of leading bits, at most 32 for IPv4 and 128 for IPv6")]
    Prefix,
    /// An address in the middle of its network.
    #[error("the address has bits beyond /{given}; the network is {network}")]
    BitsBeyond {
        /// As typed.
        given: u8,
        /// What may have been meant.
        network: IpNetwork,
    },
}

impl HostPattern {
    /// Whether it means this name.
    #[must_use]
    pub fn has_name(&self, name: &Name) -> bool {
        match self {
            Self::Any => true,
            Self::Name(own) => own == name,
            Self::Names(glob) => glob.matches(name),
            Self::Network(_) => false,
        }
    }

    /// Whether it means this address, by whatever name it was found.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Network(network) => network.contains(address),
            Self::Name(_) | Self::Names(_) => false,
        }
    }

    /// Whether it means this host.
    #[must_use]
    pub fn has(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.has_name(name),
            Host::Address(address) => self.has_address(*address),
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains("**") {
            return Err(PatternError::TwoStars);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Some((address, prefix)) = bare.split_once('/') {
            return network(address, prefix).map(Self::Network);
        }
        if !text.contains('*') {
            return Ok(match text.parse()? {
                Host::Name(name) => Self::Name(name),
                Host::Address(address) => Self::Network(IpNetwork::single(address)),
            });
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.split('.').all(|label| label == "*" || is_number(label)) && text.contains(|c: char| c.is_ascii_digit())
        {
            return address_glob(text).map(Self::Network);
        }
        glob(text).map(Self::Names)
    }
}

fn network(address: &str, prefix: &str) -> Result<IpNetwork, PatternError> {
    let bare = address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
    let Ok(address) = bare.parse::<IpAddr>() else { return Err(PatternError::Url) };
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| digits && *prefix <= most).ok_or(PatternError::Prefix)?;
    IpNetwork::new(address, prefix)
        .ok_or_else(|| PatternError::BitsBeyond { given: prefix, network: IpNetwork::around(address, prefix) })
}

/// `10.1.*` is 10.1.0.0/16.
fn address_glob(text: &str) -> Result<IpNetwork, PatternError> {
    let labels: Vec<_> = text.split('.').collect();
    let known = labels.iter().take_while(|label| **label != "*").count();
    if labels.len() > 4 || labels.iter().skip(known).any(|label| *label != "*") {
        return Err(PatternError::AddressGlob);
    }
    let zeros = std::iter::repeat_n("0", 4 - known);
    let address: Vec<_> = labels.iter().take(known).copied().chain(zeros).collect();
    let address = address.join(".").parse().map_err(|_| HostError::Name(NameError::Number))?;
    IpNetwork::new(address, u8::try_from(known * 8).unwrap_or(32)).ok_or(PatternError::AddressGlob)
}

fn glob(text: &str) -> Result<NameGlob, PatternError> {
    let checked = || {
        check_length(text)?;
        text.split('.').try_for_each(|label| check_label(label, |c| c == '*'))?;
        match text {
            // What remains of `*.`, which is not every name.
            "*" => Err(NameError::Label),
            _ if text.starts_with('-') => Err(NameError::Hyphen),
            _ => Ok(()),
        }
    };
    checked().map_err(HostError::Name)?;
    Ok(NameGlob(text.to_ascii_lowercase().into()))
}

impl NameGlob {
    fn matches(&self, name: &Name) -> bool {
        let (deep, pattern) = match self.0.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, &*self.0),
        };
        let mut labels = name.labels().rev();
        let below = pattern.rsplit('.').all(|pattern| labels.next().is_some_and(|label| label_matches(pattern, label)));
        below && labels.next().is_some() == deep
    }
}

/// One label, `*` being any number of characters: the parts between the stars in their order, each where it is first found.
fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == label };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = label.strip_prefix(head).and_then(|left| left.strip_suffix(tail)) else { return false };
    for part in middle.split('*') {
        match left.split_once(part) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    true
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => name.fmt(f),
            Self::Names(NameGlob(text)) => f.write_str(text),
            Self::Network(network) => network.fmt(f),
        }
    }
}
