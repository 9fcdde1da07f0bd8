//! `matchlock exec`.

use std::ffi::OsString;

use matchlock_model::ExitStatus;
use matchlock_sandbox::{client, exec};

use super::{
    get,
    process::{self, ProcessArgs},
};
use crate::{
    env::Environment,
    error::CliError,
    signals::Signals,
    stdio::{Connection, Mode},
};

/// Flags of `exec`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "matchlock exec [OPTIONS] <ID> [--] <COMMAND>...")]
pub(crate) struct Args {
    #[command(flatten)]
    process: ProcessArgs,
    /// The sandbox
    id: String,
    /// The command and its arguments; -- goes before a command with flags of its own
    command: Vec<OsString>,
}

pub(crate) async fn exec(args: Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let mode = args.process.mode();
    if args.command.is_empty() {
        let hint = if mode == Mode::Terminal { "such as sh" } else { "see --help" };
        return Err(CliError::failure(format!("command required ({hint})")));
    }
    Connection::check(mode)?;
    let variables = args.process.environment()?;
    let sandbox = get::find(&args.id, environment)?;
    let link = client::connect(&environment.host()?, &sandbox).await.map_err(CliError::during("exec"))?;

    let mut signals = Signals::take().map_err(CliError::io("take signals"))?;
    let connection = Connection::open(mode)?;
    let mut request = process::request(args.command, variables, &connection, environment);
    request.cwd = args.process.workdir;
    request.user = args.process.user;
    // A signal drops the session, and with it the program in the guest.
    tokio::select! {
        status = exec::run(&link, request, connection.streams) => Ok(status?),
        signal = signals.next() => Ok(ExitStatus::Interrupted(signal)),
    }
}

impl From<exec::ExecError> for CliError {
    fn from(error: exec::ExecError) -> Self {
        match error {
            exec::ExecError::NotStarted { status, message } => Self::with_status(status, message),
            output @ exec::ExecError::Output(_) => Self::plain(output),
            exec::ExecError::Link(cause) => Self::during("exec")(cause),
        }
    }
}
