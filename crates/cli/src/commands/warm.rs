//! `matchlock warm`: spare sandboxes, kept by this process for as long as it runs and taken over by those that `run` starts.

use std::{cell::Cell, time::Duration};

use matchlock_model::{ExitStatus, SandboxSpec};
use matchlock_sandbox::{
    Host,
    warm::{self, Pool, Wish},
};

use super::{
    detach::{self, Announcement},
    handover::Handover,
    image,
    shape::ShapeArgs,
    template,
};
use crate::{
    env::Environment,
    error::CliError,
    output,
    parse::{self, Toggle as _},
    signals::Signals,
};

/// Most spares of one process: each takes some 40 MiB, and more if it has been told to have an image.
const MAX_SPARES: u32 = 100;

/// Flags of `warm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many to keep, at most 100
    #[arg(long, default_value_t = 1, value_parser = parse::whole::<u32>("spare sandboxes"), value_name = "N", allow_negative_numbers = true)]
    count: u32,
    /// Have this image mounted and in memory; without, a spare takes any image and is not quite as quick
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Return when they are ready, and keep them in the background until `warm --stop`
    #[arg(short, long, toggle = false)]
    detach: bool,
    /// End all spares, and what keeps them
    #[arg(long, toggle = false, conflicts_with_all = ["count", "image", "cpus", "memory", "disk_size", "privileged", "detach"])]
    stop: bool,
}

pub(crate) async fn warm(args: Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    if args.stop {
        return stop(&environment.host()?).await;
    }
    let announcement = Announcement::from_environment(environment)?;
    if args.count == 0 || args.count > MAX_SPARES {
        return Err(CliError::failure(format!("--count must be between 1 and {MAX_SPARES}, got {}", args.count)));
    }
    let resources = args.shape.resources(0, Duration::ZERO)?;
    if args.detach && announcement.is_none() {
        return match detach::work_in_background(&Handover::default()).await? {
            Ok(background) => match output::line(&background.said) {
                Ok(()) => Ok(ExitStatus::SUCCESS),
                // What nobody could be told of is not kept.
                Err(untold) => background.end().await.and(Err(untold)),
            },
            Err(status) => Ok(status),
        };
    }
    let host = environment.host()?;
    let wish = Wish {
        count: args.count,
        image: args.image.clone(),
        vcpus: resources.cpus.vcpus(),
        memory_mb: resources.memory_mb,
        disk_size_mb: resources.disk_size_mb,
        privileged: args.shape.privileged,
    };
    let spec = SandboxSpec { privileged: args.shape.privileged, resources, ..template::usual() };
    keep(&host, wish, &spec, announcement, environment).await
}

/// Keep them until somebody asks to stop.
async fn keep(
    host: &Host,
    wish: Wish,
    spec: &SandboxSpec,
    announcement: Option<Announcement>,
    environment: &Environment,
) -> Result<ExitStatus, CliError> {
    let mut signals = Signals::take().map_err(CliError::io("take signals"))?;
    let make = || async {
        // Whatever the name stands for by now.
        let image = match &wish.image {
            Some(name) => Some(image::resolve(name, false, environment).await?.rootfs.file),
            None => None,
        };
        warm::make(host, spec, image).await.map_err(CliError::during("make a spare sandbox"))
    };
    let is_full = Cell::new(false);
    let full = || {
        is_full.set(true);
        let ready = format!("{} ready", spares(wish.count));
        if let Some(mut announcement) = announcement {
            return announcement.make(&ready);
        }
        output::note(&format!("{ready}, Ctrl-C to end"));
        Ok(())
    };
    let failed = |error: &CliError| output::note(&error.to_string());
    let mut pool = Pool::open(&host.state, wish.clone()).map_err(CliError::io("keep spare sandboxes"))?;
    let served = tokio::select! {
        served = pool.serve(make, full, failed) => served.map(|()| ExitStatus::SUCCESS),
        number = signals.next() => Ok(if is_full.get() { ExitStatus::SUCCESS } else { ExitStatus::Interrupted(number) }),
    };
    tokio::select! {
        () = pool.end() => {}
        // Their machines end with this process.
        _ = signals.impatience() => {}
    }
    served
}

async fn stop(host: &Host) -> Result<ExitStatus, CliError> {
    match warm::stop(&host.state).await.map_err(CliError::plain)? {
        0 => output::note("no spare sandboxes are kept"),
        _ => output::line("Stopped")?,
    }
    Ok(ExitStatus::SUCCESS)
}

fn spares(count: u32) -> String {
    if count == 1 { "1 spare sandbox".to_owned() } else { format!("{count} spare sandboxes") }
}
