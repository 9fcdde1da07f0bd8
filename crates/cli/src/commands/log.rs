//! `matchlock log`.

use std::{
    io::{self, IsTerminal},
    os::fd::OwnedFd,
};

use matchlock_model::ExitStatus;
use matchlock_sandbox::{
    follow::{self, FollowError},
    store,
};

use super::{get, harmless::Harmless, network_log::Humanizer};
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
    let mut show = Show::of(&args);
    let show = move |bytes: &[u8]| show.block(bytes);
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

/// In which form a log is shown.
enum Show {
    /// Byte by byte.
    Raw,
    Lines(Humanizer),
    Harmless(Harmless),
}

impl Show {
    fn of(args: &Args) -> Self {
        match args.network {
            true if args.json => Self::Raw,
            true => Self::Lines(Humanizer::default()),
            false if io::stdout().is_terminal() => Self::Harmless(Harmless::default()),
            false => Self::Raw,
        }
    }

    fn block(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw => output::bytes(bytes),
            Self::Lines(humanizer) => output::bytes(humanizer.feed(bytes).as_bytes()),
            Self::Harmless(harmless) => output::bytes(harmless.feed(bytes).as_bytes()),
        }
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
