//! What can be typed: the command tree. Each verb's own flags stand in its file under `commands/`.

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands;

/// Run commands from OCI images in throw-away microVMs.
#[derive(Debug, Parser)]
#[command(name = "matchlock", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// How much to tell on stderr
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new sandbox
    Run(Box<commands::run::Args>),
    /// Run a command in a running sandbox
    Exec(commands::exec::Args),
    /// List sandboxes
    #[command(visible_alias = "ls")]
    List(commands::list::Args),
    /// Show a sandbox's record as JSON
    Get(commands::get::Args),
    /// Show everything known about a sandbox as JSON: record, lifecycle, resources held
    #[command(visible_alias = "stat")]
    Inspect(commands::inspect::Args),
    /// Show a sandbox's log: guest console, agent, output of its command
    Log(commands::log::Args),
    /// Change the allow-list of a running sandbox
    #[command(subcommand)]
    AllowList(commands::allow_list::Verb),
    /// Give a running sandbox's secret another value
    #[command(subcommand)]
    Secret(commands::secret::Verb),
    /// Ask what a network would allow
    #[command(subcommand)]
    Policy(commands::policy::Verb),
    /// End running sandboxes
    Kill(commands::kill::Args),
    /// Remove sandboxes that do not run
    #[command(visible_alias = "remove")]
    Rm(commands::rm::Args),
    /// Remove all sandboxes that do not run
    Prune,
    /// Release what dead sandboxes left behind
    Gc(commands::gc::Args),
    /// Fetch an image and make it ready to run
    Pull(commands::pull::Args),
    /// Manage images
    #[command(subcommand)]
    Image(commands::image::Verb),
    /// Manage guest kernels
    #[command(subcommand)]
    Kernel(commands::kernel::Verb),
    /// Manage saved guests
    #[command(subcommand)]
    Template(commands::template::Verb),
    /// Keep spare sandboxes ready, so that the next ones start at once
    Warm(commands::warm::Args),
    /// Stand between a virtual machine and whoever owns it
    #[command(name = matchlock_sandbox::vmm::KEEPER_VERB, hide = true)]
    Keep(commands::keep::Args),
    /// Hold a sandbox's network namespace
    #[command(name = matchlock_sandbox::network::HOLDER_VERB, hide = true)]
    Hold,
    /// Measure this machine
    #[command(subcommand)]
    Bench(commands::bench::Verb),
    /// Show version, commit and build target
    Version,
    /// Print a shell completion script
    Completion(commands::completion::Args),
}

/// Words for `--log-level` and `MATCHLOCK_LOG_LEVEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}
