//! `matchlock pull`: everything that the next `run` of an image would wait for.

use std::time::Instant;

use matchlock_model::{ExitStatus, one_line};
use matchlock_sandbox::Timeline;

use super::{
    image::{cache, megabytes, reference},
    template,
};
use crate::{env::Environment, error::CliError, output, progress::Display};

/// Flags of `pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask the registry even if the image is here
    #[arg(long)]
    force: bool,
    /// Give the image this name, too
    #[arg(short, long)]
    tag: Option<String>,
    /// The image
    image: String,
}

pub(crate) async fn pull(args: Args, environment: &Environment) -> Result<ExitStatus, CliError> {
    let name = reference(&args.image)?;
    let tag = args.tag.as_deref().map(reference).transpose()?;
    let cache = cache(environment)?;
    output::line(&format!("Pulling {}...", args.image))?;
    let display = Display::new();
    let host = environment.host()?;
    // What else a run needs is made meanwhile. That it cannot be had is said at the end: the image is worth having.
    let outcome = tokio::try_join!(
        async { cache.resolve(&name, args.force, display.clone()).await.map_err(CliError::plain) },
        async { Ok(host.prepare_for(&template::usual(), false, &Timeline::new(Instant::now(), false)).await) }
    );
    display.clear();
    let (image, prepared) = outcome?;
    if let (Some(tag), Some(text)) = (tag, &args.tag) {
        cache.tag(&image, &tag).map_err(CliError::during("saving tag"))?;
        output::line(&format!("Tagged: {text}"))?;
    }
    output::line(&format!("Digest: {}", image.digest))?;
    output::line(&format!("Size: {}", megabytes(image.size)))?;
    let prepared = prepared.map_err(CliError::during("prepare the start"))?;
    if let Some(Err(reason)) = prepared.template() {
        output::note(&format!("sandboxes will start cold: {}", one_line(reason)));
    }
    Ok(ExitStatus::SUCCESS)
}
