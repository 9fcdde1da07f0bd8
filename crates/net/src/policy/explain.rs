//! `matchlock policy explain`: what would become of a URL, step by step, without doing anything.

use std::net::IpAddr;

use thiserror::Error;

use super::{Decision, Denied, Destination, Host, HostError, Policy, Protocol, WEB_PORTS};

/// What was to be explained is no destination.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// As a host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A scheme without a known port, and no port.
    #[error("which port {scheme}:// uses is not known here: add it to the host")]
    Scheme {
        /// As typed.
        scheme: String,
    },
}

/// Schemes whose port need not be written (IANA service names).
const SCHEMES: &[(&str, u16)] = &[
    ("https", 443),
    ("http", 80),
    ("wss", 443),
    ("ws", 80),
    ("ssh", 22),
    ("git", 9418),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("redis", 6379),
];

/// What would become of something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What was looked at on the way, a line each.
    pub steps: Vec<String>,
    /// What it comes to.
    pub outcome: Outcome,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It would go through.
    Allowed,
    /// It would not; why, if the steps do not say it.
    Denied(Option<String>),
    /// Nothing: the name has no address that is known here; why.
    Unresolved(String),
}

impl Explained {
    /// As it reads: the steps, and the answer last.
    #[must_use]
    pub fn lines(self) -> Vec<String> {
        let Self { mut steps, outcome } = self;
        steps.push(match outcome {
            Outcome::Allowed => "answer       allowed".to_owned(),
            Outcome::Denied(None) => "answer       denied".to_owned(),
            Outcome::Denied(Some(why)) => format!("answer       denied: {why}"),
            Outcome::Unresolved(why) => format!("answer       not known: {why}"),
        });
        steps
    }
}

/// The addresses of a name, for [`explain`]: all that there are, or why they are not known.
pub type Resolved = Result<Vec<IpAddr>, String>;

/// The decision about a URL or `host:port` (without one: HTTPS), step by step. `resolved` are the addresses of its name,
/// which are not asked for here; without them only the name is judged.
///
/// # Errors
/// If the text is no destination.
pub fn explain(policy: &Policy, text: &str, resolved: &Resolved) -> Result<Explained, ExplainError> {
    let (host, port) = destination(text)?;
    let mut steps = vec![format!("destination  {host}, TCP port {port}")];
    let (name, addresses) = match &host {
        Host::Address(address) => (None, Ok(vec![*address])),
        Host::Name(name) => {
            let decision = match policy.name(name) {
                Decision::Denied(_) if !WEB_PORTS.contains(&port) => {
                    Decision::Denied(Denied::Port { name: name.clone(), port })
                }
                decision => decision,
            };
            steps.push(format!("name         {}", told(&decision)));
            if !decision.is_allowed() {
                let outcome = Outcome::Denied(Some("the name is not resolved".to_owned()));
                return Ok(Explained { steps, outcome });
            }
            let added: Vec<_> = policy.added_addresses(name).collect();
            (Some(name), if added.is_empty() { resolved.clone() } else { Ok(added) })
        }
    };
    let addresses = match addresses {
        Ok(addresses) if addresses.is_empty() => Err(format!("no resolver knows an address of {host}")),
        addresses => addresses,
    };
    let mut any = false;
    for address in addresses.iter().flatten() {
        let destination = Destination { name, address: *address, port, protocol: Protocol::Tcp };
        let decision = policy.connect(&destination);
        any |= decision.is_allowed();
        steps.push(format!("{:<12} {}", address.to_string(), told(&decision)));
    }
    let outcome = match addresses {
        Ok(_) if any => Outcome::Allowed,
        Ok(_) => Outcome::Denied(None),
        Err(why) => Outcome::Unresolved(why),
    };
    Ok(Explained { steps, outcome })
}

fn told(decision: &Decision) -> String {
    match decision {
        Decision::Allowed(allowed) => format!("allowed by {allowed}"),
        Decision::Denied(denied) => format!("denied: {}", denied.why()),
    }
}

/// The host and port of a URL. Scheme, user, path, query and fragment are cut off as RFC 3986, section 3 has them.
pub(crate) fn destination(text: &str) -> Result<(Host, u16), ExplainError> {
    let (scheme, rest) =
        text.trim().split_once("://").map_or((None, text.trim()), |(scheme, rest)| (Some(scheme), rest));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = Host::with_port(host)?;
    let known =
        |scheme: &str| SCHEMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(scheme)).map(|(_, port)| *port);
    let port = match (port, scheme) {
        (Some(port), _) => port,
        (None, None) => 443,
        (None, Some(scheme)) => known(scheme).ok_or_else(|| ExplainError::Scheme { scheme: scheme.to_owned() })?,
    };
    Ok((host, port))
}
