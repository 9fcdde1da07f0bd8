//! The verbs, one file each.

pub(crate) mod allow_list;
pub(crate) mod bench;
pub(crate) mod completion;
pub(crate) mod detach;
pub(crate) mod each;
pub(crate) mod ending;
pub(crate) mod exec;
pub(crate) mod gc;
pub(crate) mod get;
pub(crate) mod handover;
pub(crate) mod harmless;
pub(crate) mod hold;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod keep;
pub(crate) mod kernel;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod network_log;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod shape;
pub(crate) mod template;
pub(crate) mod version;
pub(crate) mod warm;
pub(crate) mod watching;

use matchlock_model::ExitStatus;

use crate::{args::Command, env::Environment, error::CliError};

/// Do what was typed.
pub(crate) async fn dispatch(command: Command, environment: &Environment) -> Result<ExitStatus, CliError> {
    match command {
        Command::Run(args) => Box::pin(run::run(*args, environment)).await,
        Command::Exec(args) => exec::exec(args, environment).await,
        Command::List(args) => list::list(&args, environment).await,
        Command::Get(args) => get::get(&args, environment),
        Command::Inspect(args) => inspect::inspect(&args, environment),
        Command::Log(args) => log::log(args, environment).await,
        Command::AllowList(verb) => allow_list::allow_list(verb, environment).await,
        Command::Secret(verb) => secret::secret(verb, environment).await,
        Command::Policy(verb) => policy::policy(verb, environment).await,
        Command::Kill(args) => kill::kill(&args, environment),
        Command::Rm(args) => rm::rm(&args, environment),
        Command::Prune => prune::prune(environment),
        Command::Gc(args) => gc::gc(&args, environment),
        Command::Pull(args) => pull::pull(args, environment).await,
        Command::Image(verb) => image::image(verb, environment).await,
        Command::Kernel(verb) => kernel::kernel(verb, environment).await,
        Command::Template(verb) => template::template(verb, environment).await,
        Command::Warm(args) => warm::warm(args, environment).await,
        Command::Keep(args) => keep::keep(args),
        Command::Hold => hold::hold(),
        Command::Bench(verb) => bench::bench(verb, environment).await,
        Command::Version => version::version(),
        Command::Completion(args) => completion::completion(&args),
    }
}
