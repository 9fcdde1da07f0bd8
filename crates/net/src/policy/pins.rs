//! Which name produced which address: what makes raw TCP a matter of names.
//!
//! Every answer of [`crate::dns`] is pinned here before the guest gets it, so that the address that it connects to can be
//! judged by the names that it was given it for ([`Policy::connect_to`](super::Policy::connect_to)). Several names may share
//! an address. What is forgotten is refused, not allowed: a guest that asks for many names forgets its own.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::Name;

/// Addresses that are remembered; beyond, the one that was not used for the longest time is forgotten.
pub const MAX_PINNED_ADDRESSES: usize = 4096;

/// Names that are remembered for one address, as with addresses: large hosts of other people's sites have many.
pub const MAX_PINNED_NAMES: usize = 64;

/// The least time that an address is remembered, whatever its TTL: clients connect to what they resolved some time ago.
pub const PIN_AT_LEAST: Duration = Duration::from_mins(10);

/// The longest.
pub const PIN_AT_MOST: Duration = Duration::from_hours(24);

/// Names by address.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    by_address: HashMap<IpAddr, Pinned>,
}

#[derive(Clone, Debug)]
struct Pinned {
    names: Vec<(Name, Instant)>,
    used: Instant,
}

impl Pins {
    /// Remember that `name` has these addresses, for `ttl` within the bounds.
    pub fn pin(&mut self, name: &Name, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(PIN_AT_LEAST, PIN_AT_MOST);
        for address in addresses.iter().map(IpAddr::to_canonical) {
            if !self.by_address.contains_key(&address) {
                self.make_room(now);
            }
            let pinned = self.by_address.entry(address).or_insert_with(|| Pinned { names: Vec::new(), used: now });
            pinned.used = now;
            pinned.names.retain(|(known, until)| known != name && *until > now);
            if pinned.names.len() == MAX_PINNED_NAMES {
                pinned.names.remove(0);
            }
            pinned.names.push((name.clone(), until));
        }
    }

    /// The names that have this address, the latest first.
    pub fn names(&mut self, address: IpAddr, now: Instant) -> Vec<Name> {
        let Some(pinned) = self.by_address.get_mut(&address.to_canonical()) else { return Vec::new() };
        pinned.used = now;
        pinned.names.iter().rev().filter(|(_, until)| *until > now).map(|(name, _)| name.clone()).collect()
    }

    /// How many addresses are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    fn make_room(&mut self, now: Instant) {
        if self.by_address.len() < MAX_PINNED_ADDRESSES {
            return;
        }
        self.by_address.retain(|_, pinned| pinned.names.iter().any(|(_, until)| *until > now));
        if self.by_address.len() < MAX_PINNED_ADDRESSES {
            return;
        }
        if let Some(oldest) = self.by_address.iter().min_by_key(|(_, pinned)| pinned.used).map(|(address, _)| *address)
        {
            self.by_address.remove(&oldest);
        }
    }
}
