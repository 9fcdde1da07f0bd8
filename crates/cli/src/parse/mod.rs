//! From what was typed to validated values. Pure but for the files and variables that the user names.

mod disk;
mod duration;
mod environment;
mod hosts;
mod number;
mod policy;
mod secret;
mod toggle;

pub(crate) use disk::extra_disk;
pub(crate) use duration::duration;
pub(crate) use environment::environment;
pub(crate) use hosts::{add_host, hostname};
pub(crate) use number::{processors, whole};
pub(crate) use policy::policy_file;
pub(crate) use secret::{GivenSecret, SecretWord, Source, secret_file};
pub(crate) use toggle::Toggle;
