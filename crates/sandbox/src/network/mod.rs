//! How a sandbox is connected: from its specification to what its gateway goes by.
//!
//! Called by the program's verbs, which have an [`Egress`] made before anything is touched, and by the supervisor. Values of
//! secrets are in the [`Egress`] and nowhere else: no record, no message to another program and no log has them.

mod cable;
mod egress;
mod environment;
#[cfg(test)]
mod events;
mod explain;
mod gateway;
mod learned;
mod log;
mod memory;
mod refusals;

pub use matchlock_net::rules::{MAX_FILE as MAX_POLICY_FILE, PolicyFile, PolicyFileError, Rules};
pub use matchlock_net::secret::{MAX_LENGTH as MAX_SECRET, SecretError, Value as SecretValue, random_placeholder};

pub use self::{
    cable::HOLDER_VERB,
    egress::{Egress, NetworkError, SecretValues},
    environment::variables,
    explain::{ExplainError, explain},
    gateway::GatewayError,
    learned::{Learned, Lesson, MAX_LEARNED},
    log::{Hear, Listener, NetworkLog},
    memory::keep_memory_private,
    refusals::{MAX_TOLD, Refusals},
};
pub(crate) use self::{
    cable::{Cabling, guests_end, lay},
    gateway::Prospect,
};
