//! What a sandbox may reach, and the one way there.
//!
//! Called by `sandbox`. [`policy`] decides and [`dns`] judges and makes messages; both are pure and know neither sockets nor
//! clocks.

pub mod dns;
pub mod policy;
