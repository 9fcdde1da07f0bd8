//! Why a sandbox's network could not be made. Comes from the holder as it is, so it is plain data.

use std::{env, fs, io};

use matchlock_netlink::NftError;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Where a kernel can be told to keep ordinary users from making namespaces, and what allows it.
const KNOBS: &[(&str, &str, &str)] = &[
    ("/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "kernel.apparmor_restrict_unprivileged_userns", "0"),
    ("/proc/sys/user/max_user_namespaces", "user.max_user_namespaces", "10000"),
    ("/proc/sys/user/max_net_namespaces", "user.max_net_namespaces", "10000"),
];

/// What a holder needs in the host's own network: to make links, rules and routes; for sockets that speak for any address;
/// and for such on any port.
const RIGHTS: &str = "cap_net_admin,cap_net_raw,cap_net_bind_service";

/// What was in the way, with the remedy where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// There is no such device, or nothing behind it.
    #[error("/dev/net/tun is missing: run `sudo modprobe tun`")]
    NoTun,
    /// It may not be opened.
    #[error("cannot open /dev/net/tun (permission denied): run `sudo chmod 666 /dev/net/tun`")]
    TunForbidden,
    /// The host keeps its users from making namespaces.
    #[error("this host forbids user namespaces: run `sudo sysctl -w {0}`")]
    Namespaces(String),
    /// The kernel, or whatever this runs in, does, and no setting is known that would change it.
    #[error("user namespaces are not to be had here: {0}")]
    NoNamespaces(String),
    /// This program has no rights in the host's network; what would give it some.
    #[error("no rights in the host's network: run `{0}`")]
    HostRights(String),
    /// Neither namespaces nor rights.
    #[error("{forbidden}; or, for links among the host's own, `{remedy}`")]
    Neither {
        /// Why there are no namespaces.
        forbidden: String,
        /// What gives rights.
        remedy: String,
    },
    /// Rules are not in force.
    #[error("{0}")]
    Rules(String),
    /// Something else went wrong.
    #[error("{what}: {why}")]
    Step {
        /// What was attempted.
        what: String,
        /// What the system said.
        why: String,
    },
}

impl Error {
    pub(super) fn step(what: &str, why: &io::Error) -> Self {
        Self::Step { what: what.to_owned(), why: why.to_string() }
    }

    pub(super) fn opening_tun(why: Errno) -> Self {
        match why {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Self::NoTun,
            Errno::ACCESS | Errno::PERM => Self::TunForbidden,
            other => Self::step("open /dev/net/tun", &other.into()),
        }
    }

    /// A step of an ordinary user's namespace failed. Some hosts let the namespace be made, but nothing in it.
    pub(super) fn or_forbidden(self) -> Self {
        let denied = matches!(&self, Self::Step { why, .. } if *why == io::Error::from(Errno::PERM).to_string());
        if denied { forbidding_knob(KNOBS).map_or(self, Self::Namespaces) } else { self }
    }

    /// This program may not make it among the host's links either.
    pub(super) fn rights() -> Self {
        let program = env::current_exe().map_or_else(|_| "matchlock".to_owned(), |path| path.display().to_string());
        Self::HostRights(format!("sudo setcap {RIGHTS}+ep {program}"))
    }

    /// The other way was forbidden before.
    pub(super) fn after(self, forbidden: &Self) -> Self {
        match self {
            Self::HostRights(remedy) => Self::Neither { forbidden: forbidden.to_string(), remedy },
            other => other,
        }
    }

    /// Whether a network can only be made among the host's own.
    pub(super) fn is_without_namespaces(&self) -> bool {
        matches!(self, Self::Namespaces(_) | Self::NoNamespaces(_))
    }

    pub(super) fn unsharing(why: Errno) -> Self {
        forbidding_knob(KNOBS).map_or_else(|| Self::NoNamespaces(why.to_string()), Self::Namespaces)
    }
}

impl From<NftError> for Error {
    fn from(error: NftError) -> Self {
        match error {
            NftError::Run(why) => Self::step("run nft", &why),
            said => Self::Rules(said.to_string()),
        }
    }
}

/// The first of `knobs` that does not stand as it should, as an argument of `sysctl -w`.
fn forbidding_knob(knobs: &[(&str, &str, &str)]) -> Option<String> {
    let forbids = |file: &str, allows: &str| {
        let set = fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()?;
        // The numbers allow up to themselves; the others are switches.
        Some(if file.contains("/max_") { set == 0 } else { set.to_string() != allows })
    };
    let found = knobs.iter().find(|(file, _, allows)| forbids(file, allows) == Some(true));
    found.map(|(_, name, allows)| format!("{name}={allows}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_remedy_is_named() {
        let errors = [
            Error::opening_tun(Errno::ACCESS),
            Error::opening_tun(Errno::NOENT),
            NftError::Missing.into(),
            Error::Namespaces("kernel.unprivileged_userns_clone=1".into()),
            Error::HostRights("sudo setcap …".into()).after(&Error::NoNamespaces("Operation not permitted".into())),
            NftError::Refused("Error: Could not process rule: No such file or directory".into()).into(),
        ];
        insta::assert_snapshot!(errors.map(|e| e.to_string()).join("\n"), @r"
        cannot open /dev/net/tun (permission denied): run `sudo chmod 666 /dev/net/tun`
        /dev/net/tun is missing: run `sudo modprobe tun`
        the program nft is missing: install the package nftables
        this host forbids user namespaces: run `sudo sysctl -w kernel.unprivileged_userns_clone=1`
        user namespaces are not to be had here: Operation not permitted; or, for links among the host's own, `sudo setcap …`
        nft refused the rules of the sandbox's network: Error: Could not process rule: No such file or directory
        ");
    }

    #[test]
    fn the_knob_that_forbids_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let [switch, limit] = ["switch", "max_things"].map(|name| folder.path().join(name));
        let (switch_file, limit_file) = (switch.to_str().unwrap(), limit.to_str().unwrap());
        let knobs = [(switch_file, "a.switch", "0"), (limit_file, "a.limit", "10000"), ("/nowhere", "gone", "1")];
        let found = |s: &str, l: &str| {
            fs::write(&switch, s).unwrap();
            fs::write(&limit, l).unwrap();
            forbidding_knob(&knobs)
        };
        assert_eq!(found("0\n", "5\n"), None);
        assert_eq!(found("1\n", "0\n").as_deref(), Some("a.switch=0"));
        assert_eq!(found("0\n", "0\n").as_deref(), Some("a.limit=10000"));
    }
}
