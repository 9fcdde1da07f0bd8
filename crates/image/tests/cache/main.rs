//! The image cache against a real registry on loopback, real archives, and hostile ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a process of a test speaks to the test")]

mod archives;
mod bad_archives;
mod hostile;
mod killed;
mod names;
mod registries;
mod servers;
mod support;
mod tokens;
