//! The host's end of a sandbox's network link, while its machine is brought up.
//!
//! ```text
//! lay ─> TAP for the machine, namespace ─(perhaps as part of a spare)─ plug in ─┬──────────> doors and holder, for the gateway
//!                                                                                └ on the host ─ lease ┘
//! ```
//!
//! Where user namespaces are forbidden the TAP is among the host's own links. That waits for a lease, without which nothing is made.
//!
//! Called by `bring_up`, by `template` for the machine that is saved, and by `warm`. Invariant: a cable belongs to one machine, and
//! goes with whoever has it.

use std::sync::Arc;

use matchlock_model::SandboxId;
use matchlock_net::namespace::{
    Addressing, Doors, Error, Furnished, Holder, HolderCommand, OnHost, Plan, Unfurnished, create,
};
use matchlock_store::{LeasedLink, SandboxStore};
use matchlock_vmm::Nic;
use matchlock_wire::NetworkLink;
use tokio::task::JoinSet;

use super::GatewayError;
use crate::launch::LaunchError;

/// The verb under which this program holds a namespace.
pub const HOLDER_VERB: &str = "hold";

/// What all of it is, in messages.
const LAYING: &str = "make the sandbox's network";

/// What a gateway works with.
pub(crate) type Ends = (Doors, Holder);

/// A link that leads nowhere yet, and the interface at its other end.
pub(crate) async fn lay() -> Result<(Nic, Unfurnished), Error> {
    // The file itself, whatever has become of its name.
    let holder = HolderCommand { program: "/proc/self/exe".into(), arguments: vec![HOLDER_VERB.into()] };
    let (tap, namespace) = create(holder).await?;
    Ok((Nic { tap: Some(Arc::new(tap)) }, namespace))
}

/// A sandbox's cable on its way, beside whatever else is done. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Cabling {
    plan: Plan,
    laying: JoinSet<Result<(Nic, Unfurnished), Error>>,
    plugging_in: JoinSet<Result<Furnished, Error>>,
}

impl Cabling {
    /// A link of this plan; `ahead` if a machine is going to need a new one.
    pub(crate) fn new(plan: Plan, ahead: bool) -> Self {
        let mut laying = JoinSet::new();
        if ahead {
            laying.spawn(lay());
        }
        Self { plan, laying, plugging_in: JoinSet::new() }
    }

    /// The interface for a machine that is about to be started.
    pub(crate) async fn interface(&mut self) -> Result<Nic, Error> {
        let (nic, namespace) = match self.laying.join_next().await {
            Some(Ok(laid)) => laid?,
            _ => lay().await?,
        };
        self.plug_in(namespace);
        Ok(nic)
    }

    /// Begin to furnish the namespace, which goes with the machine that the sandbox gets, in place of any other.
    pub(crate) fn plug_in(&mut self, namespace: Unfurnished) {
        self.plugging_in = JoinSet::new();
        self.plugging_in.spawn(namespace.furnish(self.plan));
    }

    /// Wait until it is done, for the sandbox of this id, in whose name a link of the host's is leased if it has to be.
    pub(crate) async fn done(mut self, store: &mut SandboxStore, id: &SandboxId) -> Result<Ends, LaunchError> {
        let interrupted = || Error::Step { what: LAYING.to_owned(), why: "interrupted".to_owned() };
        let furnished = self.plugging_in.join_next().await.and_then(Result::ok).ok_or_else(interrupted).flatten();
        match furnished.map_err(GatewayError::from)? {
            Furnished::Private(doors, holder) => Ok((doors, holder)),
            Furnished::OnHost(place) => {
                store.lease_link(id, leased(&place))?;
                Ok(place.furnish(id.number()).await.map_err(GatewayError::from)?)
            }
        }
    }

    /// The link's addresses.
    pub(crate) const fn addressing(&self) -> &Addressing {
        &self.plan.addressing
    }
}

fn leased(place: &OnHost) -> LeasedLink {
    let Addressing { gateway4, guest4, prefix4, .. } = *place.addressing();
    LeasedLink { gateway: gateway4, guest: guest4, prefix: prefix4 }
}

/// The guest's side of the same link.
pub(crate) fn guests_end(addressing: &Addressing) -> NetworkLink {
    let Addressing { gateway4, guest4, prefix4, gateway6, guest6, prefix6, mtu } = *addressing;
    NetworkLink { ipv4: (guest4, prefix4), gateway4, ipv6: (guest6, prefix6), gateway6, mtu }
}
