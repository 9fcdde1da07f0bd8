//! The policy of a running sandbox, where its gateway asks: [`policy`](crate::policy) and [`dns`](crate::dns) with a clock, a
//! memory and servers to ask.
//!
//! ```text
//! gateway ─ resolve(query) ──────── judge ─ known here? ──────────────────────────── answer
//!                                         └ Forwarder, with our own bytes ─ vet ─ pin ─ answer
//!         ─ decide(TCP, address) ── names pinned for it ─ Policy::connect_to ┬ Denied
//!                                                                            ├ by address: raw
//!                                                                            ├ by name, web port or with rules: inspect
//!                                                                            └ by name, other port: by its opening
//! ```
//!
//! Made by `sandbox`, once for each sandbox; the control socket changes its policy. Invariants: an address is pinned before
//! the guest can know it; every decision is of one policy as it was at one time; no lock is held while something is waited for.
//!
//! # What is inspected
//!
//! A rule with a *name* says whom the guest may talk to, and with TLS and HTTP that is the name in the request, not the address:
//! a server of many names would serve any of them (fronting). So such connections are inspected on the web's ports, and on
//! others if they open with TLS or HTTP ([`Way::ByOpening`]). Where the server speaks first (SSH, SMTP) or the guest
//! opens with something else (Redis, databases), the connection is spliced to the pinned address. So is what begins as
//! something else and becomes TLS later (STARTTLS): there, the address is what is allowed.
//!
//! Where rules are about requests to one of the names at that port ([`Rules::concern`]), there is no guessing: whatever comes is
//! inspected, and what is not HTTP does not get through.
//!
//! A rule with an *address* allows that machine, whatever names it has: such connections are spliced. An open network splices
//! everything.

mod addresses;
mod host;
mod resolve;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub use self::host::own_addresses;
use crate::{
    gateway::{Forwarder, Grant, OrigDst, Way},
    policy::{
        Allowed, Decision, Denied, Destination, Host, Mode, Name, NotIntercepting, Pins, Policy, Protocol, Target,
        WEB_PORTS,
    },
    rules::Rules,
};

/// What a sandbox may reach, now. Clones share it.
#[derive(Clone, Debug)]
pub struct Guard(Arc<State>);

#[derive(Debug)]
struct State {
    /// Held to take or to exchange it only.
    policy: Mutex<Arc<Policy>>,
    /// Held while a policy is changed, so that none of two changes is lost.
    changing: Mutex<()>,
    pins: Mutex<Pins>,
    rules: Rules,
    upstream: Forwarder,
}

impl Guard {
    /// A guard that goes by `policy`, which should have the host's own addresses ([`own_addresses`]), knows which `rules` there are
    /// about requests, and asks `upstream`.
    #[must_use]
    pub fn new(policy: Policy, rules: Rules, upstream: Forwarder) -> Self {
        Self(Arc::new(State {
            policy: Mutex::new(Arc::new(policy)),
            changing: Mutex::default(),
            pins: Mutex::default(),
            rules,
            upstream,
        }))
    }

    /// The policy as it is now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&lock(&self.0.policy))
    }

    /// What is said about single requests; the same for all the sandbox's life.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// As [`Policy::add`].
    ///
    /// # Errors
    /// If the network is open.
    pub fn add(&self, targets: impl IntoIterator<Item = Target>) -> Result<Vec<Target>, NotIntercepting> {
        self.change(|policy| policy.add(targets))
    }

    /// As [`Policy::delete`]; for new connections and questions.
    ///
    /// # Errors
    /// If the network is open.
    pub fn delete(&self, targets: impl IntoIterator<Item = Target>) -> Result<Vec<Target>, NotIntercepting> {
        self.change(|policy| policy.delete(targets))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Policy) -> T) -> T {
        let _alone = lock(&self.0.changing);
        let mut policy = Policy::clone(&self.policy());
        let outcome = change(&mut policy);
        *lock(&self.0.policy) = Arc::new(policy);
        outcome
    }

    /// Whether UDP other than DNS can be allowed at all: what the namespace's plan is to say
    /// ([`Plan::udp`](crate::namespace::Plan)), for there a refusal is told to the guest at once, and QUIC gives way to TCP.
    #[must_use]
    pub fn carries_udp(&self) -> bool {
        self.policy().mode == Mode::Open
    }

    /// May the guest go there, and how is it carried? What the gateway is to ask
    /// ([`Settings::decide`](crate::gateway::Settings)).
    ///
    /// # Errors
    /// What is refused, and why.
    pub fn decide(&self, protocol: Protocol, destination: OrigDst) -> Result<Grant, Denied> {
        let (address, port) = (destination.get().ip(), destination.get().port());
        let policy = self.policy();
        let pinned = lock(&self.0.pins).names(address, Instant::now());
        let allowed = match policy.connect_to(address, port, protocol, &pinned) {
            Decision::Allowed(allowed) => allowed,
            Decision::Denied(denied) => return Err(denied),
        };
        let by_name = policy.mode == Mode::Intercept && protocol == Protocol::Tcp && allowed.name.is_some();
        if !by_name {
            return Ok(Grant::raw(allowed));
        }
        let names = meant(&policy, address, port, &pinned);
        let inspected = WEB_PORTS.contains(&port) || names.iter().any(|name| self.has_rules_for(name, port));
        let way = if inspected { Way::Inspect(names) } else { Way::ByOpening(names) };
        Ok(Grant { allowed, way })
    }

    fn has_rules_for(&self, name: &Name, port: u16) -> bool {
        self.0.rules.concern(&Host::Name(name.clone()), port)
    }

    /// May the guest have there whom it says it means, on a connection that is inspected? `names` are those that it was given the
    /// address for ([`Inspection::names`](crate::gateway::Inspection)). Asked for each connection and each request.
    ///
    /// # Errors
    /// What is refused, and why.
    pub fn decide_host(&self, host: &Host, destination: OrigDst, names: &[Name]) -> Result<Allowed, Denied> {
        let (address, port) = (destination.get().ip(), destination.get().port());
        let elsewhere = || Denied::Elsewhere { host: host.clone(), address };
        let name = match host {
            Host::Name(name) => Some(name),
            Host::Address(own) if *own == address => None,
            Host::Address(_) => return Err(elsewhere()),
        };
        match self.policy().connect(&Destination { name, address, port, protocol: Protocol::Tcp }) {
            Decision::Denied(denied) => Err(denied),
            Decision::Allowed(Allowed { name: Some(name), .. }) if !names.contains(&name) => Err(elsewhere()),
            Decision::Allowed(allowed) => Ok(allowed),
        }
    }
}

/// The names that a guest who connects there can mean: those of the address that are allowed by themselves.
fn meant(policy: &Policy, address: IpAddr, port: u16, pinned: &[Name]) -> Vec<Name> {
    let added = policy.added.iter().filter(|(_, own)| own.to_canonical() == address).map(|(name, _)| name);
    let mut names: Vec<Name> = Vec::new();
    for name in pinned.iter().chain(added) {
        let destination = Destination { name: Some(name), address, port, protocol: Protocol::Tcp };
        let by_name = matches!(policy.connect(&destination), Decision::Allowed(Allowed { name: Some(_), .. }));
        if by_name && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// What is locked here is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
