//! What a sandbox may reach, and the one way there.
//!
//! Called by `sandbox`. [`policy`] decides and [`dns`] judges and makes messages; both are pure and know neither sockets nor
//! clocks. [`namespace`] is where the guest's packets end, [`gateway`] carries what they ask for to the host's network.

pub mod dns;
pub mod gateway;
pub mod namespace;
pub mod policy;
mod watched;
