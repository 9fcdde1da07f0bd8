//! `matchlock template …`: the saved guests that sandboxes are continued from.

use jiff::Timestamp;
use matchlock_model::{ExitStatus, ImageConfig, Network, Resources, SandboxId, SandboxSpec};
use matchlock_sandbox::{
    Host,
    vmm::{
        Accelerator,
        template::{Listed, Sources},
    },
};

use super::image::megabytes;
use crate::{env::Environment, error::CliError, output};

/// The template verbs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List saved guests
    #[command(visible_alias = "list")]
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete saved guests; a run makes the one that it needs
    #[command(visible_alias = "remove")]
    Rm {
        /// Every one
        #[arg(long, conflicts_with = "keys")]
        all: bool,
        /// Their keys
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Delete those that no run can use any more, and make the one of the default shape anew
    Refresh,
}

pub(crate) async fn template(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    let host = environment.host()?;
    match verb {
        Verb::Ls { json } => show(&host, json)?,
        Verb::Rm { all: false, keys } if keys.is_empty() => {
            return Err(CliError::failure("template key required (or use --all)"));
        }
        Verb::Rm { all: false, keys } => return remove(&host, &keys, ExitStatus::Failure),
        Verb::Rm { all: true, .. } => {
            let keys: Vec<_> = listed(&host)?.into_iter().map(|listed| listed.key).collect();
            // One that somebody else has removed since is gone as well.
            return remove(&host, &keys, ExitStatus::SUCCESS);
        }
        Verb::Refresh => {
            // Something to make a template from is needed to know which are made from something else.
            host.prepare().await.map_err(CliError::plain)?;
            let sources = sources(&host)?;
            let unusable = listed(&host)?.into_iter().filter(|listed| !listed.is_current(&sources));
            remove(&host, &unusable.map(|listed| listed.key).collect::<Vec<_>>(), ExitStatus::SUCCESS)?;
            let key = host.remake_template(&usual()).await.map_err(CliError::during("make the template"))?;
            output::line(&format!("Made {key}"))?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// The shape of a sandbox where no flag says otherwise.
pub(crate) fn usual() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::from_random([0; 4]),
        image: String::new(),
        privileged: false,
        resources: Resources::default(),
        network: Network::default(),
        env: [].into(),
        extra_disks: Vec::new(),
        image_config: ImageConfig::default(),
    }
}

fn listed(host: &Host) -> Result<Vec<Listed>, CliError> {
    host.templates().list().map_err(CliError::io("list templates"))
}

fn sources(host: &Host) -> Result<Vec<Sources>, CliError> {
    host.template_sources().map_err(CliError::io("look at what templates are made from"))
}

/// Remove them, one line each; `gone` is what it means for the exit status that there is no such.
fn remove(host: &Host, keys: &[String], gone: ExitStatus) -> Result<ExitStatus, CliError> {
    let templates = host.templates();
    let mut status = ExitStatus::SUCCESS;
    for key in keys {
        if templates.remove(key).map_err(CliError::during(&format!("remove template {key}")))? {
            output::line(&format!("Removed {key}"))?;
        } else if gone != ExitStatus::SUCCESS {
            output::note(&format!("template {key:?} not found"));
            status = gone;
        }
    }
    Ok(status)
}

fn show(host: &Host, json: bool) -> Result<(), CliError> {
    let (templates, sources) = (listed(host)?, sources(host)?);
    if json {
        return output::json(&templates.iter().map(|listed| record(listed, &sources)).collect::<Vec<_>>());
    }
    let header = ["KEY", "CPUS", "MEMORY", "DISKS", "ACCELERATOR", "QEMU", "SIZE", "USED", "CURRENT"];
    output::table(&header, &templates.iter().map(|listed| row(listed, &sources)).collect::<Vec<_>>())
}

fn record(listed: &Listed, sources: &[Sources]) -> serde_json::Value {
    let recipe = listed.recipe.as_ref();
    serde_json::json!({
        "key": listed.key,
        "cpus": recipe.map(|recipe| recipe.vcpus),
        "memory_mb": recipe.map(|recipe| recipe.memory_mb),
        "disks": recipe.map(|recipe| recipe.disks),
        "accelerator": recipe.map(|recipe| word(recipe.accelerator)),
        "qemu": recipe.map(|recipe| &recipe.vmm),
        "size": listed.size,
        "used_at": used(listed),
        "current": listed.is_current(sources),
    })
}

fn row(listed: &Listed, sources: &[Sources]) -> Vec<String> {
    let [cpus, memory, disks, accelerator, qemu] = match &listed.recipe {
        Some(recipe) => [
            recipe.vcpus.to_string(),
            format!("{} MB", recipe.memory_mb),
            recipe.disks.to_string(),
            word(recipe.accelerator).to_owned(),
            // Without what the distribution adds.
            recipe.vmm.split(' ').next().unwrap_or_default().to_owned(),
        ],
        None => ["-"; 5].map(str::to_owned),
    };
    let used = used(listed).map_or_else(|| "-".to_owned(), |used| used.strftime("%Y-%m-%d %H:%M").to_string());
    let current = if listed.is_current(sources) { "yes" } else { "no" };
    vec![listed.key.clone(), cpus, memory, disks, accelerator, qemu, megabytes(listed.size), used, current.to_owned()]
}

const fn word(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    }
}

fn used(listed: &Listed) -> Option<Timestamp> {
    Timestamp::try_from(listed.used).ok()
}
