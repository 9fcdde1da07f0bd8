//! A sandbox's network in its supervisor: what of it follows from what was asked for, and the gateway at work.
//!
//! Called by `launch`. Invariant: nothing is carried that the [`Guard`] of this sandbox has not allowed.

use std::sync::Arc;

use matchlock_model::Network;
use matchlock_net::{
    gateway::{Event, Gateway, Settings},
    guard::Guard,
    intercept::{Authority, AuthorityError},
    namespace::{self, Addressing, Plan, host_has_ipv6},
    policy::Mode,
};
use thiserror::Error;

use super::{Egress, cable::Cabling};

/// What the authority is called in the certificates that people look at.
const AUTHORITY: &str = "Matchlock sandbox";

/// Its name in a folder of certificates of OpenSSL's: `openssl x509 -subject_hash`, which depends on what it is called.
const AUTHORITY_LINK: &str = "59b07350.0";

/// Why a sandbox has no network.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GatewayError {
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    #[error("list this host's addresses")]
    OwnAddresses(#[source] std::io::Error),
    #[error("make the sandbox's certificate authority")]
    Authority(#[from] AuthorityError),
    #[error("start the gateway")]
    Start(#[source] std::io::Error),
}

/// What is to be carried, before there is anything to carry it.
pub(crate) struct Prospect {
    guard: Guard,
    addressing: Addressing,
    authority: Option<Authority>,
}

impl Prospect {
    /// As `network` and what follows from it have it.
    pub(crate) fn of(network: &Network, egress: &Egress) -> Result<Self, GatewayError> {
        let intercepts = egress.policy.mode == Mode::Intercept;
        Ok(Self {
            guard: egress.guard().map_err(GatewayError::OwnAddresses)?,
            addressing: Addressing { mtu: network.mtu(), ..Addressing::default() },
            authority: intercepts.then(|| Authority::new(AUTHORITY)).transpose()?,
        })
    }

    /// What its namespace is to have.
    pub(crate) fn plan(&self) -> Plan {
        Plan { addressing: self.addressing, ipv6: host_has_ipv6(), udp: self.guard.carries_udp() }
    }

    /// Whose certificates the guest is to trust.
    pub(crate) fn authority(&self) -> Option<matchlock_wire::Authority> {
        let told = |own: &Authority| matchlock_wire::Authority {
            certificate: own.pem().to_owned(),
            link: AUTHORITY_LINK.to_owned(),
        };
        self.authority.as_ref().map(told)
    }

    /// Carry what comes, until the gateway is dropped.
    pub(crate) async fn serve(self, cabling: Cabling) -> Result<Gateway, GatewayError> {
        let (doors, holder) = cabling.done().await?;
        let guard = self.guard.clone();
        let settings = Settings {
            decide: Arc::new(move |protocol, destination| guard.decide(protocol, destination)),
            inspector: None,
            resolver: Arc::new(self.guard),
            events: Arc::new(|event: Event| tracing::debug!("{event:?}")),
            addressing: self.addressing,
        };
        Gateway::start(doors, holder, settings).map_err(GatewayError::Start)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn openssl_finds_the_authority_under_its_link() {
        let authority = Authority::new(AUTHORITY).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-subject_hash"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut openssl = openssl.spawn().expect("install the package openssl");
        std::io::Write::write_all(&mut openssl.stdin.take().unwrap(), authority.pem().as_bytes()).unwrap();
        let said = openssl.wait_with_output().unwrap().stdout;
        assert_eq!(format!("{}.0", String::from_utf8(said).unwrap().trim()), AUTHORITY_LINK);
    }
}
