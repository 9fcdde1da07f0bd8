//! A sandbox's network in its supervisor: what of it follows from what was asked for, and the gateway at work.
//!
//! Called by `launch`. Invariant: nothing is carried that the [`Guard`] of this sandbox has not allowed.

use std::{path::Path, sync::Arc};

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

use super::{Egress, cable::Ends};
use crate::control::{self, Control, Service};

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
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("start the gateway")]
    Start(#[source] std::io::Error),
    #[error("listen on control.sock")]
    Control(#[source] std::io::Error),
}

/// What is to be carried, before there is anything to carry it.
pub(crate) struct Prospect {
    guard: Guard,
    secrets: Current,
    addressing: Addressing,
    authority: Option<Authority>,
}

impl Prospect {
    /// As `network` and what follows from it have it.
    pub(crate) fn of(network: &Network, egress: &Egress) -> Result<Self, GatewayError> {
        let intercepts = egress.policy.mode == Mode::Intercept;
        Ok(Self {
            guard: egress.guard().map_err(GatewayError::OwnAddresses)?,
            secrets: Current::new(egress.secrets.clone()),
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

    /// Carry what comes, and be there for changes, until the outcome is dropped. `events` hears of all of it.
    pub(crate) async fn serve(
        self,
        (doors, holder): Ends,
        events: Arc<dyn Fn(Event) + Send + Sync>,
        control_socket: &Path,
    ) -> Result<AtWork, GatewayError> {
        let Self { guard, secrets, addressing, authority } = self;
        let inspector = |authority| -> Result<Arc<dyn Inspector>, GatewayError> {
            let (guard, secrets, events) = (guard.clone(), secrets.clone(), Arc::clone(&events));
            let roots = Arc::new(roots());
            Ok(Arc::new(Interceptor::new(intercept::Settings { guard, secrets, authority, roots, events })?))
        };
        let judge = guard.clone();
        let settings = Settings {
            decide: Arc::new(move |protocol, destination| judge.decide(protocol, destination)),
            inspector: authority.map(|authority| inspector(Arc::new(authority))).transpose()?,
            resolver: Arc::new(guard.clone()),
            events,
            addressing,
        };
        let gateway = Gateway::start(doors, holder, settings).map_err(GatewayError::Start)?;
        let rotate = Box::new(move |name: &str, value| secrets.rotate(name, value));
        let control = control::serve(control_socket, Control { guard: Some(guard), rotate });
        Ok(AtWork { _gateway: gateway, _control: control.map_err(GatewayError::Control)? })
    }
}

/// A network at work. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct AtWork {
    _gateway: Gateway,
    _control: Service,
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
