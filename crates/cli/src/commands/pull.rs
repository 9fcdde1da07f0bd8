//! `matchlock pull`: everything that the next `run` of an image would wait for.

use matchlock_model::ExitStatus;

use super::image::{cache, megabytes, reference};
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
    let image = cache.resolve(&name, args.force, display.clone()).await;
    display.clear();
    let image = image.map_err(CliError::plain)?;
    if let (Some(tag), Some(text)) = (tag, &args.tag) {
        cache.tag(&image, &tag).map_err(CliError::during("saving tag"))?;
        output::line(&format!("Tagged: {text}"))?;
    }
    output::line(&format!("Digest: {}", image.digest))?;
    output::line(&format!("Size: {}", megabytes(image.size)))?;
    environment.host()?.prepare().await.map_err(CliError::during("prepare the guest kernel"))?;
    Ok(ExitStatus::SUCCESS)
}
