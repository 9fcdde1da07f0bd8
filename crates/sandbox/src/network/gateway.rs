//! A sandbox's network in its supervisor: what of it follows from what was asked for, and the gateway at work.
//!
//! Called by `launch`. Invariant: nothing is carried that the [`Guard`] of this sandbox has not allowed.

use std::sync::Arc;

use matchlock_model::Network;
use matchlock_net::{
    gateway::{Event, Gateway, Inspector, Settings},
    guard::Guard,
    intercept::{self, Authority, AuthorityError, Interceptor},
    namespace::{self, Addressing, Plan, host_has_ipv6},
    policy::Mode,
    secret::Current,
};
use rustls::RootCertStore;
use thiserror::Error;
use tokio::task::{JoinError, JoinHandle};

use super::{Egress, cable::Ends};
use crate::control::Control;

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
    #[error("read this host's certificates")]
    Roots(#[source] JoinError),
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("start the gateway")]
    Start(#[source] std::io::Error),
}

/// What is to be carried, before there is anything to carry it.
pub(crate) struct Prospect {
    guard: Guard,
    secrets: Current,
    addressing: Addressing,
    /// For a network whose connections are looked into.
    trust: Option<Trust>,
}

/// Who trusts whom, where TLS ends in the gateway.
struct Trust {
    /// The guest, this one.
    authority: Authority,
    /// The gateway, these.
    roots: JoinHandle<RootCertStore>,
}

impl Prospect {
    /// As `network` and what follows from it have it.
    pub(crate) fn of(network: &Network, egress: &Egress) -> Result<Self, GatewayError> {
        let intercepts = egress.policy.mode == Mode::Intercept;
        Ok(Self {
            guard: egress.guard().map_err(GatewayError::OwnAddresses)?,
            secrets: Current::new(egress.secrets.clone()),
            addressing: Addressing { mtu: network.mtu(), ..Addressing::default() },
            trust: intercepts.then(Trust::new).transpose()?,
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
        self.trust.as_ref().map(|trust| told(&trust.authority))
    }

    /// Carry what comes, until the gateway is ended or dropped; the other is what can be changed of it. `events` hears of all of it.
    pub(crate) async fn serve(
        self,
        (doors, holder): Ends,
        events: Arc<dyn Fn(Event) + Send + Sync>,
    ) -> Result<(Gateway, Control), GatewayError> {
        let Self { guard, secrets, addressing, trust } = self;
        let mut inspector: Option<Arc<dyn Inspector>> = None;
        if let Some(Trust { authority, roots }) = trust {
            let (guard, secrets) = (guard.clone(), secrets.clone());
            let (authority, roots) = (Arc::new(authority), Arc::new(roots.await.map_err(GatewayError::Roots)?));
            let events = Arc::clone(&events);
            let settings = intercept::Settings { guard, secrets, authority, roots, events };
            inspector = Some(Arc::new(Interceptor::new(settings)?));
        }
        let judge = guard.clone();
        let settings = Settings {
            decide: Arc::new(move |protocol, destination| judge.decide(protocol, destination)),
            inspector,
            resolver: Arc::new(guard.clone()),
            events,
            addressing,
        };
        let gateway = Gateway::start(doors, holder, settings).map_err(GatewayError::Start)?;
        Ok((gateway, Control { guard: Some(guard), secrets }))
    }
}

impl Trust {
    fn new() -> Result<Self, AuthorityError> {
        let authority = Authority::new(AUTHORITY)?;
        // Some hundred files, or one that is long: read while the machine is brought up.
        Ok(Self { authority, roots: tokio::task::spawn_blocking(roots) })
    }
}

/// Whom this host trusts to sign for servers. One that has no such list trusts nobody, and every connection says so.
fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("this host's certificates: {error}");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
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
