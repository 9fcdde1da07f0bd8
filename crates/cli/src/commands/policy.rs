//! `matchlock policy`: what a network would allow, without trying it.

use matchlock_model::ExitStatus;
use matchlock_sandbox::{
    control::{self, Answer, Request},
    network,
};

use super::{get, network::NetworkArgs};
use crate::{env::Environment, error::CliError, output};

/// Verbs of `policy`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Show what would become of a URL, and why: in a running sandbox, or with these flags of `run`
    ///
    /// The exit code is 0 if it is allowed and 1 if it is not. The name is resolved, but nothing is connected to.
    Explain(Args),
}

/// Whose network, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// The request's method, for rules about requests
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    method: String,
    /// A URL, or HOST:PORT; before it the sandbox's id, if it is about one that runs
    #[arg(required = true, num_args = 1..=2, value_name = "URL")]
    about: Vec<String>,
}

pub(crate) async fn policy(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    let Verb::Explain(Args { network, method, about }) = verb;
    let answer = match &about[..] {
        [id, url] if network.is_default() => {
            let sandbox = get::find(id, environment)?;
            let request = Request::Explain { url: url.clone(), method };
            control::ask(&environment.host()?, &sandbox, &request).await.map_err(CliError::during("explain"))?
        }
        [id, _] => {
            let message = format!("explain: {id} has its own network: leave either it or the flags out");
            return Err(CliError::failure(message));
        }
        [url, ..] => with_flags(&network, &method, url).await?,
        [] => return Err(CliError::failure("explain: a URL is required")),
    };
    let Answer::Explained { allowed, lines } = answer else {
        return Err(CliError::failure("explain: the answer is not understood"));
    };
    output::text(format!("{}\n", lines.join("\n")))?;
    Ok(if allowed { ExitStatus::SUCCESS } else { ExitStatus::Failure })
}

async fn with_flags(network: &NetworkArgs, method: &str, url: &str) -> Result<Answer, CliError> {
    let Some(egress) = network.connect(None, false)?.egress else {
        let lines = vec!["answer       denied: there is no network".to_owned()];
        return Ok(Answer::Explained { allowed: false, lines });
    };
    let guard = egress.guard().map_err(CliError::io("read this host's addresses"))?;
    network::explain(&guard, method, url).await.map_err(CliError::during("explain"))
}
