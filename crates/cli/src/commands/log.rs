//! `matchlock log`.

use std::{io, os::fd::OwnedFd};

use matchlock_model::ExitStatus;
use matchlock_sandbox::{
    follow::{self, FollowError},
    store,
};

use super::{get, network_log::Humanizer};
use crate::{env::Environment, error::CliError, output, signals::Signals};

/// Flags of `log`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on until the sandbox ends
    #[arg(short, long)]
    follow: bool,
    /// What it did on the network, instead
    #[arg(long)]
    network: bool,
    /// With --network: as it is recorded, one JSON object a line
    #[arg(long, requires = "network")]
    json: bool,
    /// The sandbox
    id: String,
}

pub(crate) async fn log(args: Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let sandbox = get::find(&args.id, environment)?;
    let layout = environment.host()?.state.vm(&sandbox.id);
    let path = if args.network { layout.network_log() } else { layout.log() };
    let mut humanizer = (args.network && !args.json).then(Humanizer::default);
    let show = move |bytes: &[u8]| match &mut humanizer {
        Some(humanizer) => output::bytes(humanizer.feed(bytes).as_bytes()),
        None => output::bytes(bytes),
    };
    let supervisor: Option<OwnedFd> = match &sandbox.owner {
        Some(owner) if args.follow => store::open_process(owner).map_err(CliError::during("read VM log"))?,
        _ => None,
    };
    let Some(supervisor) = supervisor else {
        return read(follow::read(&path, show));
    };
    let mut signals = Signals::take().map_err(CliError::io("take signals"))?;
    // A thread of its own; after a signal nobody waits for it.
    let following = tokio::task::spawn_blocking(move || follow::follow(&path, &supervisor, show));
    tokio::select! {
        result = following => read(result.map_err(CliError::during("read VM log"))?),
        signal = signals.next() => Ok(ExitStatus::Interrupted(signal)),
    }
}

/// Who has seen enough may stop reading before the log's end.
fn read(result: Result<(), FollowError<io::Error>>) -> Result<ExitStatus, CliError> {
    match result {
        Err(FollowError::Taker(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(output::unwritten()(error)),
        Err(FollowError::Log(error)) => Err(CliError::io("read VM log")(error)),
        Ok(()) | Err(FollowError::Taker(_)) => Ok(ExitStatus::SUCCESS),
    }
}
