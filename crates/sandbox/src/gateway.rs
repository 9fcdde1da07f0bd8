//! A sandbox's network in its supervisor: what of it follows from the specification, and the gateway at work.
//!
//! Called by `launch`. Invariant: nothing is carried that the [`Guard`] of this sandbox has not allowed.

use std::sync::Arc;

use matchlock_model::SandboxSpec;
use matchlock_net::{
    gateway::{Event, Forwarder, Gateway, Servers, Settings},
    guard::{Guard, own_addresses},
    namespace::{Addressing, Plan, host_has_ipv6},
    policy::{Mode, Policy},
};

use crate::{cable::Cabling, launch::LaunchError};

/// See the module.
pub(crate) struct Network {
    guard: Guard,
    addressing: Addressing,
}

impl Network {
    /// As `spec` wants it.
    pub(crate) fn of(spec: &SandboxSpec) -> Result<Self, LaunchError> {
        let own_addresses =
            own_addresses().map_err(|source| LaunchError::Io { what: "list this host's addresses", source })?;
        let policy = Policy { mode: Mode::Open, own_addresses, ..Policy::default() };
        let servers = match &spec.network.dns_servers[..] {
            [] => Servers::Host,
            own => Servers::These(own.iter().map(|address| (*address, 53).into()).collect()),
        };
        Ok(Self { guard: Guard::new(policy, Forwarder { servers }), addressing: Addressing::default() })
    }

    /// What its namespace is to have.
    pub(crate) fn plan(&self) -> Plan {
        Plan { addressing: self.addressing, ipv6: host_has_ipv6(), udp: self.guard.carries_udp() }
    }

    /// Carry what comes, until the gateway is dropped.
    pub(crate) async fn serve(self, cabling: Cabling) -> Result<Gateway, LaunchError> {
        let (doors, holder) = cabling.done().await?;
        let guard = self.guard.clone();
        let settings = Settings {
            decide: Arc::new(move |protocol, destination| guard.decide(protocol, destination)),
            inspector: None,
            resolver: Arc::new(self.guard),
            events: Arc::new(|event: Event| tracing::debug!("{event:?}")),
            addressing: self.addressing,
        };
        Gateway::start(doors, holder, settings).map_err(|source| LaunchError::Io { what: "start the gateway", source })
    }
}
