//! What a sandbox may reach: a value, and verdicts on it.
//!
//! The gateway and [`crate::dns`] ask, and do what they are told; nothing else in the program decides about names and
//! addresses. Everything here is a function of its arguments: no sockets, no resolver, no clock.
//!
//! A guest's way out passes three questions, each of which can refuse:
//!
//! ```text
//! "api.x.com?"              Policy::name        may the name be asked for at all?        no: NXDOMAIN
//! 93.184.216.34, 10.0.0.5   Policy::addresses   which answers may be used?               the others are dropped
//! connect 93.184.216.34:443 Policy::connect_to  which names led here, and may one of     no: reset, 403, alert
//!                                               them, or the address, be connected to?
//! ```
//!
//! Once the gateway knows the name that a client means (SNI, `Host`), it asks [`Policy::connect`] with it and the address
//! that it is about to dial.

mod change;
mod class;
mod decision;
mod explain;
mod host;
mod judge;
mod name;
mod network;
mod pattern;
mod pins;
mod target;

use std::net::IpAddr;

pub use change::NotIntercepting;
pub use class::AddressClass;
pub use decision::{Allowed, Decision, Denied, Protocol, Rule};
pub(crate) use explain::destination;
pub use explain::{ExplainError, Explained, Outcome, Resolved, explain};
pub use host::{Host, HostError};
pub use judge::{Destination, Vetted};
pub use name::{MAX_LABEL, MAX_NAME, Name, NameError};
pub use network::IpNetwork;
pub use pattern::{HostPattern, NameGlob, PatternError};
pub use pins::{MAX_PINNED_ADDRESSES, MAX_PINNED_NAMES, PIN_AT_LEAST, PIN_AT_MOST, Pins};
pub use target::{PrivateTarget, Target, TargetError, WEB_PORTS};

/// What a sandbox may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether there is an allow-list.
    pub mode: Mode,
    /// The allow-list. Without meaning in an open network; in an intercepted one, nothing is allowed but what stands here.
    pub allowed: Vec<Target>,
    /// Which addresses that are not public may be reached all the same. Lifts that refusal only: an allow-list has to have the
    /// host as well.
    pub allow_private: Vec<PrivateTarget>,
    /// Names with an address given by the user. They need no resolver, and rules may use them.
    pub added: Vec<(Name, IpAddr)>,
    /// Names whose TLS is left alone, if they are allowed.
    pub passthrough: Vec<HostPattern>,
    /// Addresses of this machine, which are not told from others by their looks.
    pub own_addresses: Vec<IpAddr>,
}

/// How a sandbox is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// To everything public.
    Open,
    /// To what its rules allow, seen by the gateway. What is made without a word is closed.
    #[default]
    Intercept,
}
