//! `matchlock allow-list`: what a running sandbox may reach from now on.

use matchlock_model::ExitStatus;
use matchlock_sandbox::control::{self, Answer, Request};

use super::get;
use crate::{env::Environment, error::CliError, output};

/// Verbs of `allow-list`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Allow hosts
    Add(Args),
    /// Allow hosts no longer: those that stand there just so
    Delete(Args),
}

/// Of which sandbox, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The sandbox
    id: String,
    /// Hosts as `run --allow-host` takes them
    #[arg(required = true, value_delimiter = ',', value_name = "HOST[:PORT]")]
    hosts: Vec<String>,
}

pub(crate) async fn allow_list(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    let (Verb::Add(args) | Verb::Delete(args)) = &verb;
    let mut hosts: Vec<String> = Vec::new();
    for host in args.hosts.iter().map(|host| host.trim()).filter(|host| !host.is_empty()) {
        if !hosts.iter().any(|own| own == host) {
            hosts.push(host.to_owned());
        }
    }
    if hosts.is_empty() {
        let message = "invalid allow-list host: expected one or more hosts (comma-separated)";
        return Err(CliError::failure(message));
    }
    let sandbox = get::find(&args.id, environment)?;
    let (request, done, undone) = match verb {
        Verb::Add(_) => (Request::AllowListAdd { hosts }, "Added to", "No new hosts were added to"),
        Verb::Delete(_) => (Request::AllowListDelete { hosts }, "Removed from", "No hosts were removed from"),
    };
    let answer = control::ask(&environment.host()?, &sandbox, &request).await;
    let Answer::AllowList { changed, allowed_hosts } = answer.map_err(CliError::during("update allow-list"))? else {
        return Err(CliError::failure("update allow-list: the answer is not understood"));
    };
    let id = &sandbox.id;
    let first =
        if changed.is_empty() { format!("{undone} {id}") } else { format!("{done} {id}: {}", changed.join(",")) };
    let all = if allowed_hosts.is_empty() { "(empty: nothing is allowed)".to_owned() } else { allowed_hosts.join(",") };
    output::line(&format!("{first}\nCurrent allow-list: {all}"))?;
    Ok(ExitStatus::SUCCESS)
}
