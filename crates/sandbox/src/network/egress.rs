//! From a network as it was asked for to what the gateway goes by: policy, secrets, resolvers. Pure, and the one place that
//! says which specification makes no sense.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use matchlock_model::{Network, NetworkMode, SecretSpec};
use matchlock_net::{
    gateway::{Forwarder, Servers},
    guard::{Guard, own_addresses},
    policy::{Host, HostPattern, Mode, Name, NameError, PatternError, Policy, PrivateTarget, Target, TargetError},
    rules::{
        Rules,
        rpc::{self, RpcRuleError},
    },
    secret::{Options, Secret, SecretError, Secrets, Value},
};
use thiserror::Error;

/// The port of resolvers (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// The port whose TLS can be left alone.
const HTTPS_PORT: u16 = 443;

/// Values of secrets by their names.
pub type SecretValues = BTreeMap<String, Value>;

/// What a sandbox's gateway goes by.
#[derive(Clone)]
pub struct Egress {
    /// What may be reached; the host's own addresses are still to be added ([`Self::guard`] does).
    pub policy: Policy,
    /// Which requests are let through, and what is changed in them.
    pub rules: Rules,
    /// What of the rules has no effect, a line each.
    pub notices: Vec<String>,
    /// What is put in on the way.
    pub secrets: Secrets,
    /// Who is asked for addresses.
    pub servers: Servers,
}

/// Why a network cannot be as it was asked for.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NetworkError {
    #[error("invalid allowed host {0}")]
    Allowed(TargetError),
    #[error("invalid private host {0}")]
    Private(TargetError),
    #[error("invalid add-host mapping: invalid add-host hostname {host:?}: {why}")]
    Added { host: String, why: NameError },
    #[error("invalid tls-passthrough host {host:?}: {why}")]
    Passthrough { host: String, why: PatternError },
    #[error("tls-passthrough is about allowed hosts: say which are allowed")]
    PassthroughOpen,
    #[error("tls-passthrough {host}: secret {secret} is for it, and cannot be put into TLS that is left alone")]
    PassthroughOfSecret { host: String, secret: String },
    #[error("secret {0:?}: its name becomes that of a variable, so it has no spaces, control characters or =")]
    SecretName(String),
    #[error("secret {0}: no hosts")]
    SecretForNobody(String),
    #[error("secret {secret}: host {host:?}: {why}")]
    SecretHost { secret: String, host: String, why: PatternError },
    #[error("secret {secret}: host {host:?}: whom a secret is for is said without a port; allowed hosts say the ports")]
    SecretPort { secret: String, host: String },
    #[error("secret {secret}: it is for names: give {host} one with add-host")]
    SecretForAddress { secret: String, host: String },
    #[error("secret {0}: no value")]
    SecretWithoutValue(String),
    #[error("secret {secret}: {why}")]
    Secret { secret: String, why: SecretError },
    #[error(transparent)]
    Secrets(SecretError),
    #[error("tls-passthrough {0}: rules are about its requests, and cannot be kept in TLS that is left alone")]
    PassthroughOfRule(Name),
    #[error(transparent)]
    Rule(#[from] RpcRuleError),
    #[error("MTU must be between {least} and {most}, got {0}", least = Network::LEAST_MTU, most = Network::MOST_MTU)]
    Mtu(u16),
}

impl Egress {
    /// What follows from `network`, the values of its secrets being `values`; `None` where it says that there is no network.
    ///
    /// # Errors
    /// The first thing in it that makes no sense.
    pub fn of(network: &Network, values: &SecretValues) -> Result<Option<Self>, NetworkError> {
        if let Some(mtu) = network.mtu.filter(|mtu| !(Network::LEAST_MTU..=Network::MOST_MTU).contains(mtu)) {
            return Err(NetworkError::Mtu(mtu));
        }
        let mode = match network.mode() {
            NetworkMode::None => return Ok(None),
            NetworkMode::Open => Mode::Open,
            NetworkMode::Intercept => Mode::Intercept,
        };
        let secrets = network.secrets.iter().map(|(name, spec)| secret(name, spec, values));
        let secrets = secrets.collect::<Result<Vec<_>, _>>()?;
        let passthrough = parse(&network.tls_passthrough, |host, why| NetworkError::Passthrough { host, why })?;
        if mode == Mode::Open && !passthrough.is_empty() {
            return Err(NetworkError::PassthroughOpen);
        }
        left_alone(&passthrough, network)?;
        let added = network.add_hosts.iter().map(|line| match line.host.parse::<Name>() {
            Ok(name) => Ok((name, line.ip)),
            Err(why) => Err(NetworkError::Added { host: line.host.clone(), why }),
        });
        let policy = Policy {
            mode,
            allowed: allowed(network)?,
            allow_private: parse::<PrivateTarget, _>(&network.allowed_private_hosts, |_, why| {
                NetworkError::Private(why)
            })?,
            added: added.collect::<Result<_, _>>()?,
            passthrough,
            own_addresses: Vec::new(),
        };
        let servers = match network.dns_servers[..] {
            [] => Servers::Host,
            ref servers => Servers::These(servers.iter().map(|ip: &IpAddr| SocketAddr::new(*ip, DNS_PORT)).collect()),
        };
        let compiled = rpc::compile(network.interception.as_ref().map_or(&[], |interception| &interception.rules))?;
        let secrets = Secrets::new(secrets).map_err(NetworkError::Secrets)?;
        let notices = compiled.ignored.iter().map(ToString::to_string).collect();
        Self { policy, rules: Rules::default(), notices, secrets, servers }.with(compiled.rules).map(Some)
    }

    /// With these rules, too, after its own.
    ///
    /// # Errors
    /// If they are about what is not looked into.
    pub fn with(mut self, rules: Rules) -> Result<Self, NetworkError> {
        for pattern in &self.policy.passthrough {
            let HostPattern::Name(name) = pattern else { continue };
            if rules.concern(&Host::Name(name.clone()), HTTPS_PORT) {
                return Err(NetworkError::PassthroughOfRule(name.clone()));
            }
        }
        self.rules = self.rules.and(rules);
        Ok(self)
    }

    /// The guard of a sandbox on this host, as its addresses are now.
    ///
    /// # Errors
    /// If the host's addresses are not to be had.
    pub fn guard(&self) -> io::Result<Guard> {
        let policy = Policy { own_addresses: own_addresses()?, ..self.policy.clone() };
        Ok(Guard::new(policy, self.rules.clone(), Forwarder { servers: self.servers.clone() }))
    }
}

/// The allow-list: what was named, and whom secrets are for.
fn allowed(network: &Network) -> Result<Vec<Target>, NetworkError> {
    let hosts_of_secrets = network.secrets.values().flat_map(|secret| &secret.hosts);
    let mut allowed: Vec<Target> = Vec::new();
    for host in network.allowed_hosts.iter().chain(hosts_of_secrets) {
        let target = host.parse().map_err(NetworkError::Allowed)?;
        if !allowed.contains(&target) {
            allowed.push(target);
        }
    }
    Ok(allowed)
}

fn secret(name: &str, spec: &SecretSpec, values: &SecretValues) -> Result<Secret, NetworkError> {
    let named = || name.to_owned();
    if name.is_empty() || name.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
        return Err(NetworkError::SecretName(named()));
    }
    if spec.hosts.is_empty() {
        return Err(NetworkError::SecretForNobody(named()));
    }
    let wrong = |host: String, why| match host.parse::<Target>() {
        Ok(_) => NetworkError::SecretPort { secret: named(), host },
        Err(_) => NetworkError::SecretHost { secret: named(), host, why },
    };
    let hosts: Vec<HostPattern> = parse(&spec.hosts, wrong)?;
    // What is allowed by its address is carried as it is: nothing would be put in.
    if let Some((host, _)) = spec.hosts.iter().zip(&hosts).find(|(_, p)| matches!(p, HostPattern::Network(_))) {
        return Err(NetworkError::SecretForAddress { secret: named(), host: host.clone() });
    }
    let value = values.get(name).ok_or_else(|| NetworkError::SecretWithoutValue(named()))?;
    let options = Options { body: spec.body, without_tls: spec.without_tls };
    let secret = Secret::new(named(), value.clone(), Some(spec.placeholder.clone()), hosts, options);
    secret.map_err(|why| NetworkError::Secret { secret: named(), why })
}

/// Refuse what is evidently meant for both. Where patterns overlap otherwise, the placeholder goes out as it is, which tells
/// nobody anything.
fn left_alone(passthrough: &[HostPattern], network: &Network) -> Result<(), NetworkError> {
    for (secret, spec) in &network.secrets {
        for host in &spec.hosts {
            let name = host.parse::<Name>().ok();
            let same = |(text, pattern): &(&String, &HostPattern)| {
                *text == host || name.as_ref().is_some_and(|name| pattern.has_name(name))
            };
            if let Some((host, _)) = network.tls_passthrough.iter().zip(passthrough).find(same) {
                return Err(NetworkError::PassthroughOfSecret { host: host.clone(), secret: secret.clone() });
            }
        }
    }
    Ok(())
}

fn parse<T: std::str::FromStr, E>(words: &[String], wrong: impl Fn(String, T::Err) -> E) -> Result<Vec<T>, E> {
    words.iter().map(|word| word.parse().map_err(|why| wrong(word.clone(), why))).collect()
}

/// Without the secrets.
impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("policy", &self.policy).field("servers", &self.servers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
