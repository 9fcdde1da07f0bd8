//! From what was typed to validated values. Pure but for the files and variables that the user names.

mod disk;
mod duration;
mod environment;
mod hosts;

pub(crate) use disk::extra_disk;
pub(crate) use duration::duration;
pub(crate) use environment::environment;
pub(crate) use hosts::{add_host, hostname};
