//! What interception is made of: the authority that signs, and what becomes of secrets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod authority;
mod secrets;
