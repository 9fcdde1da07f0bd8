//! What a sandbox may reach, and the one way there.
//!
//! For `sandbox`. [`policy`] decides and [`dns`] judges and makes
//! messages; both are pure and know neither sockets nor clocks. [`namespace`] is where the guest's packets end, [`gateway`] carries
//! what they ask for to the host's network, and asks [`guard`], which is the policy of one running sandbox, whether it may.
//! [`intercept`] has the authority by whose certificates TLS can be looked into, [`rules`] what a policy says about single requests,
//! [`secret`] what a guest is never to hold.

pub mod dns;
pub mod gateway;
pub mod guard;
pub mod intercept;
pub mod namespace;
mod percent;
pub mod policy;
mod readable;
pub mod rules;
pub mod secret;
mod watched;

/// Characters of a text of a guest's, in what is told of it to people and logs.
const MAX_TOLD: usize = 256;
