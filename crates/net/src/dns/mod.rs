//! The guest's only resolver, as far as it can be told without a socket: bytes in, bytes out.
//!
//! The gateway reads a message of the guest and has it judged ([`judge`]). Either the answer is known, or there is a
//! [`Pending`] question: it is put to a resolver of the host with [`Pending::query`], and what comes back is made into the
//! guest's answer by [`Pending::answer`]. Whatever happens, the guest is given one [`Reply`] or nothing.
//!
//! Invariants: no byte of the guest's reaches a resolver but a [`Name`](crate::policy::Name) and a type, and in an intercepted
//! network no byte of a resolver's reaches the guest but addresses that policy lets through: a name that is not allowed is
//! asked for nowhere (it would carry data out), and `HTTPS` and `SVCB` records are not handed on (they bring keys that hide
//! names from the gateway, and other addresses). An address is in [`Reply::addresses`] before the guest can know it, so that
//! it can be pinned.

mod pending;
mod question;
mod reply;

use std::time::Duration;

pub use hickory_proto::{op::ResponseCode, rr::RecordType};
pub use pending::{Pending, Upstream};
pub(crate) use question::encoded;
pub use question::{Transport, Verdict, judge};
pub use reply::Reply;

/// Bytes of a message that a guest may send, over UDP and TCP alike. A question fits into 300.
pub const MAX_QUERY: usize = 4096;

/// Bytes of an answer over UDP to which both sides commit, whatever more a guest offers (RFC 6891, section 6.2.5, and what
/// fits into one packet everywhere).
pub const MAX_UDP: usize = 1232;

/// Bytes of an answer over UDP to a guest that offers nothing (RFC 1035, section 4.2.1).
pub const PLAIN_UDP: usize = 512;

/// Steps from a name to its canonical name that are followed within an answer.
pub const MAX_ALIASES: usize = 16;

/// Addresses that are taken from one answer.
pub const MAX_ADDRESSES: usize = 64;

/// The longest time that a guest is told to remember an answer: what may be reached can change while it runs. Shorter than
/// [`PIN_AT_LEAST`](crate::policy::PIN_AT_LEAST), so that what a guest remembers the gateway does, too.
pub const MAX_TTL: Duration = Duration::from_mins(5);

/// For answers that are known here.
pub const OWN_TTL: Duration = Duration::from_mins(1);
