//! What is said on the socket. `docs/network.md` shows it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client wants.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Allow these hosts, too.
    AllowListAdd {
        /// As `--allow-host` takes them.
        hosts: Vec<String>,
    },
    /// Allow these no longer.
    AllowListDelete {
        /// As they were allowed.
        hosts: Vec<String>,
    },
    /// Give a secret another value, from the next request on.
    SecretSet {
        /// Which one.
        name: String,
        /// The value.
        value: String,
    },
    /// What would become of this URL?
    Explain {
        /// Or `host:port`.
        url: String,
        /// The request's method.
        #[serde(default = "get")]
        method: String,
    },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The allow-list is so now.
    AllowList {
        /// What was not as it is now: added or deleted.
        changed: Vec<String>,
        /// All of it.
        allowed_hosts: Vec<String>,
    },
    /// Done.
    Done,
    /// The decision.
    Explained {
        /// What it is.
        allowed: bool,
        /// Why, in lines.
        lines: Vec<String>,
    },
    /// It cannot be done; why, in a line.
    Failed(String),
}

fn get() -> String {
    "GET".to_owned()
}

/// Without a secret's value.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllowListAdd { hosts } => write!(f, "allow {hosts:?}"),
            Self::AllowListDelete { hosts } => write!(f, "allow {hosts:?} no longer"),
            Self::SecretSet { name, .. } => write!(f, "set secret {name:?}"),
            Self::Explain { url, method } => write!(f, "explain {method} {url:?}"),
        }
    }
}
