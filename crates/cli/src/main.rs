//! `matchlock`: the program people type. Parse, do what one verb says, report.

mod args;
mod commands;
mod conceal;
mod env;
mod error;
mod output;
mod parse;
mod progress;
mod signals;
mod stdio;
mod usage;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    env::Environment,
    error::CliError,
};

fn main() -> ExitCode {
    let result = Cli::try_parse().map_or_else(|error| usage::report(&error, std::env::args_os()), run);
    let status = result.unwrap_or_else(|error| {
        output::error(&error);
        error.status
    });
    ExitCode::from(status.code())
}

fn run(cli: Cli) -> Result<matchlock_model::ExitStatus, CliError> {
    let command = match cli.command {
        // These are to take up as little as can be, and need nothing of what the others do.
        Command::Keep(args) => return commands::keep::keep(args),
        Command::Hold => return commands::hold::hold(),
        command => command,
    };
    let environment = Environment::read();
    output::start_log(cli.log_level.or(environment.log_level()?));
    // One thread: the supervisor's work is waiting. What computes or blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::io("start"))?;
    let result = runtime.block_on(commands::dispatch(command, &environment));
    // A thread may still wait for a key press on standard input; nobody waits for it.
    runtime.shutdown_background();
    result
}
