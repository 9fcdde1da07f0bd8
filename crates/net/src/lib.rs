//! What a sandbox may reach, and the one way there.
//!
//! Called by `sandbox`. [`policy`] decides and [`dns`] judges and makes messages; both are pure and know neither sockets nor
//! clocks. [`namespace`] is where the guest's packets end, [`gateway`] carries what they ask for to the
//! host's network, and asks [`guard`], which is the policy of one running sandbox, whether it may.

pub mod dns;
pub mod gateway;
pub mod guard;
pub mod intercept;
pub mod namespace;
pub mod policy;
pub mod secret;
mod watched;
