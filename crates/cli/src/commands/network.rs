//! Flags that say how a sandbox is connected; `run` and `policy explain` share them.

use std::{net::IpAddr, path::PathBuf};

use matchlock_model::{Network, SecretSpec};
use matchlock_sandbox::network::{Egress, PolicyFile, Rules, SecretValues, random_placeholder};

use super::handover::Handover;
use crate::{
    conceal,
    env::Environment,
    error::CliError,
    parse::{self, GivenSecret, SecretWord, Toggle as _},
};

/// How a sandbox is connected.
#[derive(Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Seal the network, and allow this host: a name, *.NAME, an address or a range; :PORT, :FROM-TO or :* says which ports
    #[arg(long, value_delimiter = ',', value_name = "HOST[:PORT]")]
    allow_host: Vec<String>,
    /// Read from a file what may be reached, down to single requests; flags add to it
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Let this host have a private address
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    allow_private_host: Vec<String>,
    /// Leave the TLS of this allowed host alone, for clients that would not trust the gateway
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    tls_passthrough: Vec<String>,
    /// Seal the network even if no host is allowed
    #[arg(long, toggle = false)]
    network_intercept: bool,
    /// Loopback only
    #[arg(long, toggle = false)]
    no_network: bool,
    /// Put this credential into requests to these hosts; the guest has a placeholder. NAME alone takes the caller's variable
    #[arg(long, value_name = "NAME[=VALUE]@HOST[,HOST]")]
    secret: Vec<SecretWord>,
    /// Read secrets from a JSON file
    #[arg(long, value_name = "FILE")]
    secret_file: Vec<PathBuf>,
    /// What the guest has in place of a secret, where a program insists on a certain look
    #[arg(long, value_name = "NAME=PLACEHOLDER")]
    secret_placeholder: Vec<String>,
    /// Put this secret into bodies of requests, too
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    secret_in_body: Vec<String>,
    /// Put this secret into requests without TLS, too, which the network can read
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    secret_without_tls: Vec<String>,
    /// Add a line to the guest's /etc/hosts: NAME:IP
    #[arg(long, value_delimiter = ',', value_name = "NAME:IP")]
    add_host: Vec<String>,
    /// Resolvers to ask in place of the host's own
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    dns_servers: Vec<IpAddr>,
    /// The guest's host name (default: the sandbox's id)
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Bytes of the largest packet on the guest's link, 576 to 65521; below 1280 there is no IPv6
    #[arg(long, value_parser = parse::whole::<u32>("bytes"), value_name = "BYTES", allow_negative_numbers = true)]
    mtu: Option<u32>,
}

/// A network as it was asked for, checked.
#[derive(Debug)]
pub(crate) struct Connected {
    /// The record.
    pub(crate) network: Network,
    /// What it does not have.
    pub(crate) values: SecretValues,
    /// What follows from both; `None` for no network.
    pub(crate) egress: Option<Egress>,
}

impl NetworkArgs {
    /// Check everything, and take the secrets out of where others could see them. Those that another process of ours has taken
    /// already are `handed_over`. With `learns`, all that is public is allowed: an open network, or, as secrets are put in only
    /// where the gateway looks, one whose allow-list has everything.
    pub(crate) fn connect(&self, handed_over: Option<Handover>, learns: bool) -> Result<Connected, CliError> {
        let mtu = self.mtu.map(mtu).transpose()?;
        self.refuse_without_network()?;
        if learns {
            self.refuse_to_learn()?;
        }
        let Handover { secrets, values } = match handed_over {
            Some(handover) => handover,
            None => self.secrets()?,
        };
        let file = self.policy.as_deref().map(parse::policy_file).transpose()?;
        let mut network = Network {
            no_network: self.no_network,
            hostname: self.hostname.as_deref().map(parse::hostname).transpose()?.unwrap_or_default(),
            dns_servers: self.dns_servers.clone(),
            add_hosts: self.add_host.iter().map(|spec| parse::add_host(spec)).collect::<Result<_, _>>()?,
            allowed_hosts: if learns && !secrets.is_empty() { vec!["*".to_owned()] } else { self.allow_host.clone() },
            allowed_private_hosts: self.allow_private_host.clone(),
            tls_passthrough: self.tls_passthrough.clone(),
            intercept: self.network_intercept,
            mtu,
            interception: None,
            secrets,
        };
        let mut rules = Rules::default();
        if let Some(PolicyFile { allowed, allow_private, passthrough, rules: of_file }) = file {
            network.intercept = true;
            network.allowed_hosts.extend(allowed.iter().map(ToString::to_string));
            network.allowed_private_hosts.extend(allow_private.iter().map(ToString::to_string));
            network.tls_passthrough.extend(passthrough.iter().map(ToString::to_string));
            rules = of_file;
        }
        let egress = Egress::of(&network, &values).map_err(CliError::plain)?;
        let egress = egress.map(|egress| egress.with(rules)).transpose().map_err(CliError::plain)?;
        Ok(Connected { network, values, egress })
    }

    /// Whether none of them was typed.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn refuse_without_network(&self) -> Result<(), CliError> {
        let others = [
            ("--allow-host", !self.allow_host.is_empty()),
            ("--secret", !self.secret.is_empty()),
            ("--network-intercept", self.network_intercept),
            ("--secret-file", !self.secret_file.is_empty()),
            ("--allow-private-host", !self.allow_private_host.is_empty()),
            ("--tls-passthrough", !self.tls_passthrough.is_empty()),
            ("--policy", self.policy.is_some()),
        ];
        match others.into_iter().find(|(_, given)| *given && self.no_network) {
            Some((flag, _)) => Err(CliError::failure(format!("--no-network cannot be combined with {flag}"))),
            None => Ok(()),
        }
    }

    fn refuse_to_learn(&self) -> Result<(), CliError> {
        let others = [
            ("--allow-host", !self.allow_host.is_empty()),
            ("--network-intercept", self.network_intercept),
            ("--no-network", self.no_network),
            ("--policy", self.policy.is_some()),
        ];
        match others.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                let message = format!("--learn cannot be combined with {flag}: it finds out what to allow");
                Err(CliError::failure(message))
            }
            None => Ok(()),
        }
    }

    /// The secrets of files and words, which nobody sees any more afterwards.
    fn secrets(&self) -> Result<Handover, CliError> {
        let mut all = Handover::default();
        for word in &self.secret {
            all.add(word.parse(Environment::named)?)?;
        }
        if !self.secret.is_empty() || !self.secret_file.is_empty() {
            conceal::secrets(&self.secret).map_err(CliError::io("hide the secrets of this process"))?;
        }
        // Last, and after the others are hidden: a pipe's other end may take its time.
        for file in &self.secret_file {
            parse::secret_file(file)?.into_iter().try_for_each(|given| all.add(given))?;
        }
        for word in &self.secret_placeholder {
            let (name, placeholder) = word.split_once('=').ok_or_else(|| {
                CliError::failure(format!("invalid secret placeholder {word:?} (expected NAME=PLACEHOLDER)"))
            })?;
            placeholder.clone_into(&mut all.named("--secret-placeholder", name)?.placeholder);
        }
        for name in &self.secret_in_body {
            all.named("--secret-in-body", name)?.body = true;
        }
        for name in &self.secret_without_tls {
            all.named("--secret-without-tls", name)?.without_tls = true;
        }
        for spec in all.secrets.values_mut().filter(|spec| spec.placeholder.is_empty()) {
            spec.placeholder = random_placeholder().map_err(CliError::plain)?;
        }
        Ok(all)
    }
}

fn mtu(given: u32) -> Result<u16, CliError> {
    let (least, most) = (Network::LEAST_MTU, Network::MOST_MTU);
    let mtu = u16::try_from(given).ok().filter(|mtu| (least..=most).contains(mtu));
    mtu.ok_or_else(|| CliError::failure(format!("--mtu must be between {least} and {most}, got {given}")))
}

impl Handover {
    fn add(&mut self, given: GivenSecret) -> Result<(), CliError> {
        let GivenSecret { name, value, spec } = given;
        if self.secrets.contains_key(&name) {
            return Err(CliError::failure(format!("secret {name} is given twice")));
        }
        self.values.insert(name.clone(), value);
        self.secrets.insert(name, spec);
        Ok(())
    }

    /// The secret that a flag is about.
    fn named(&mut self, flag: &str, name: &str) -> Result<&mut SecretSpec, CliError> {
        let unknown = || CliError::failure(format!("{flag} {name}: there is no secret of that name"));
        self.secrets.get_mut(name).ok_or_else(unknown)
    }
}
