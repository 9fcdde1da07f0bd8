//! The verdicts.

use std::net::IpAddr;

use super::{
    AddressClass, Allowed, Decision, Denied, HostPattern, Mode, Name, Policy, PrivateTarget, Protocol, Rule, Target,
    class::delivered_to,
};

/// A connection, or the first datagram of a flow, that is about to be made for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The name that the address was found by, or that the client says it means.
    pub name: Option<&'a Name>,
    /// The address that will be dialled.
    pub address: IpAddr,
    /// The port, 0 if the protocol has none.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
}

/// A resolver's addresses after [`Policy::addresses`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vetted {
    /// Those that may be handed out and dialled, in the resolver's order.
    pub usable: Vec<IpAddr>,
    /// Those that are kept from the guest.
    pub refused: Vec<Denied>,
}

impl Policy {
    /// May this name be resolved at all, with whatever port in mind?
    #[must_use]
    pub fn name(&self, name: &Name) -> Decision {
        let allowed = |rule| Decision::Allowed(Allowed { rule, name: Some(name.clone()), opened: None });
        if self.added_addresses(name).next().is_some() {
            return allowed(Rule::AddHost);
        }
        match (self.mode, self.allowed.iter().find(|target| target.hosts().has_name(name))) {
            (Mode::Open, _) => allowed(Rule::Open),
            (Mode::Intercept, Some(target)) => allowed(Rule::AllowHost(target.clone())),
            (Mode::Intercept, None) => Decision::Denied(Denied::Name(name.clone())),
        }
    }

    /// Which of the addresses that a resolver gave for a name may be used. Each is looked at: a name with one public and one
    /// private address keeps the public one. Does not ask whether the name is allowed.
    #[must_use]
    pub fn addresses(&self, name: &Name, addresses: impl IntoIterator<Item = IpAddr>) -> Vetted {
        let mut vetted = Vetted::default();
        for address in addresses {
            match self.private(Some(name), address) {
                Ok(_) => vetted.usable.push(address),
                Err(denied) => vetted.refused.push(denied),
            }
        }
        vetted
    }

    /// May this connection be made? A rule has to have the name with the port, or the address with it, and the address has to
    /// be public or opened.
    ///
    /// The name is what the guest says. It is believed as far as [`Allowed::name`] goes: where that is `None`, the address is
    /// what is allowed, and the caller must not resolve the name and dial something else.
    #[must_use]
    pub fn connect(&self, destination: &Destination<'_>) -> Decision {
        self.judge(destination).map_or_else(Decision::Denied, Decision::Allowed)
    }

    /// [`Policy::connect`] for a connection of which only the address is known: `pinned` are the names that the guest was
    /// given this address for ([`Pins::names`](super::Pins::names)), to which the user's own (`--add-host`) are added. It is
    /// allowed if it is for one of the names, or for the address alone.
    #[must_use]
    pub fn connect_to(&self, address: IpAddr, port: u16, protocol: Protocol, pinned: &[Name]) -> Decision {
        let canonical = address.to_canonical();
        let added = self.added.iter().filter(|(_, own)| own.to_canonical() == canonical).map(|(name, _)| name);
        let mut refused = None;
        for name in pinned.iter().chain(added) {
            match self.judge(&Destination { name: Some(name), address, port, protocol }) {
                Ok(allowed) => return Decision::Allowed(allowed),
                Err(denied) => refused = refused.or(Some(denied)),
            }
        }
        match self.judge(&Destination { name: None, address, port, protocol }) {
            Ok(allowed) => Decision::Allowed(allowed),
            // What is refused of a name says more than what is refused of its address.
            Err(denied) => Decision::Denied(refused.unwrap_or(denied)),
        }
    }

    /// Whether TLS for this name is passed on as it comes.
    #[must_use]
    pub fn passes_through(&self, name: &Name) -> bool {
        self.passthrough.iter().any(|pattern| pattern.has_name(name))
    }

    /// The user's addresses for a name.
    pub fn added_addresses(&self, name: &Name) -> impl Iterator<Item = IpAddr> {
        self.added.iter().filter(move |(own, _)| own == name).map(|(_, address)| *address)
    }

    /// What kind of address it is to this machine.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> AddressClass {
        let reached = delivered_to(address);
        if self.own_addresses.iter().any(|own| own.to_canonical() == reached) {
            return AddressClass::HostItself;
        }
        AddressClass::of(address)
    }

    fn judge(&self, destination: &Destination<'_>) -> Result<Allowed, Denied> {
        let Destination { name, address, port, protocol } = *destination;
        let address = address.to_canonical();
        let (rule, name) = match self.mode {
            Mode::Open => (Rule::Open, name),
            Mode::Intercept if protocol != Protocol::Tcp => {
                return Err(Denied::Protocol { protocol, address, port });
            }
            Mode::Intercept => self.rule(name, address, port)?,
        };
        let opened = self.private(name, address)?.cloned();
        Ok(Allowed { rule, name: name.cloned(), opened })
    }

    /// The rule of the allow-list, and the name if it is by the name that the rule allows.
    fn rule<'a>(&self, name: Option<&'a Name>, address: IpAddr, port: u16) -> Result<(Rule, Option<&'a Name>), Denied> {
        let find = |has: &dyn Fn(&HostPattern) -> bool| {
            let fits = |target: &&Target| target.has_port(port) && has(target.hosts());
            self.allowed.iter().find(fits).map(|target| Rule::AllowHost(target.clone()))
        };
        if let Some(name) = name
            && let Some(rule) = find(&|hosts| hosts.has_name(name))
        {
            return Ok((rule, Some(name)));
        }
        match find(&|hosts| hosts.has_address(address)) {
            Some(rule) => Ok((rule, None)),
            None => Err(self.not_allowed(name, address, port)),
        }
    }

    fn not_allowed(&self, name: Option<&Name>, address: IpAddr, port: u16) -> Denied {
        match name.filter(|name| self.allowed.iter().any(|target| target.hosts().has_name(name))) {
            Some(name) => Denied::Port { name: name.clone(), port },
            None => Denied::Host { name: name.cloned(), address, port, class: self.class(address) },
        }
    }

    /// Whether an address may be dialled for a name as far as its class goes, and what opened it if it is not public.
    fn private(&self, name: Option<&Name>, address: IpAddr) -> Result<Option<&PrivateTarget>, Denied> {
        let address = address.to_canonical();
        let class = self.class(address);
        if class.is_public() {
            return Ok(None);
        }
        let by_user = |name: &Name| self.added_addresses(name).any(|own| own.to_canonical() == address);
        let opens = |target: &&PrivateTarget| match name {
            _ if !class.opens_by_address() => false,
            // A range that happens to have the cloud's credentials in it was not written for them.
            _ if class == AddressClass::CloudMetadata && target.is_address(address) => true,
            _ if class != AddressClass::CloudMetadata && target.has_address(address) => true,
            Some(name) if target.has_name(name) && by_user(name) && !target.is_any() => true,
            Some(name) => class.opens_by_name() && target.has_name(name),
            None => class.opens_by_name() && target.is_any(),
        };
        let denied = || Denied::Address { name: name.cloned(), address, class };
        self.allow_private.iter().find(opens).map(Some).ok_or_else(denied)
    }
}
