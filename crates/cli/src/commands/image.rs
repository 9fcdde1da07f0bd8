//! `matchlock image …`, and what the other verbs need of images.

use std::{fs::File, io, os::fd::AsFd, sync::Arc};

use matchlock_model::ExitStatus;
use matchlock_sandbox::image::{Image, ImageCache, Reference, SavedImage};

use crate::{env::Environment, error::CliError, output, progress::Display};

/// The image verbs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget an image, and delete what no other image needs
    #[command(visible_alias = "remove")]
    Rm {
        /// The image
        tag: String,
    },
    /// Read an image from standard input: what `docker save` writes, or an OCI archive
    Import {
        /// Its name here
        tag: String,
    },
    /// Delete files that no image needs
    Gc,
}

pub(crate) async fn image(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    match verb {
        Verb::Ls { json } => list(json, environment)?,
        Verb::Rm { tag } => {
            cache(environment)?.remove(&reference(&tag)?).map_err(CliError::plain)?;
            output::line(&format!("Removed {tag}"))?;
        }
        Verb::Import { tag } => import(tag, environment).await?,
        Verb::Gc => {
            let swept = cache(environment)?.gc().map_err(CliError::plain)?;
            if swept.busy {
                output::note("another matchlock is using the image store; what it needs was left alone");
            }
            output::line(&format!("Removed {} unreferenced blobs", swept.images + swept.layers))?;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// The image that is to be run, fetched if it is not here.
pub(crate) async fn resolve(typed: &str, refresh: bool, environment: &Environment) -> Result<Image, CliError> {
    let display = Display::new();
    let image = cache(environment)?.resolve(&reference(typed)?, refresh, display.clone()).await;
    display.clear();
    let image = image.map_err(CliError::during("building rootfs"))?;
    if !image.cached {
        output::note(&format!("Built rootfs from {typed} ({})", megabytes(image.size)));
    }
    Ok(image)
}

/// The store of images.
pub(crate) fn cache(environment: &Environment) -> Result<ImageCache, CliError> {
    ImageCache::open(&environment.host()?.cache, environment.registries()?).map_err(CliError::plain)
}

/// The name that was typed.
pub(crate) fn reference(typed: &str) -> Result<Reference, CliError> {
    typed.parse().map_err(CliError::during("parse image reference"))
}

/// A size as the tables show it.
pub(crate) fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1024 * 1024);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

fn list(json: bool, environment: &Environment) -> Result<(), CliError> {
    let images = cache(environment)?.list().map_err(CliError::plain)?;
    if json {
        let record = |saved: &SavedImage| {
            let image = &saved.image;
            serde_json::json!({
                "tag": image.tag, "scope": image.scope.as_str(), "source": image.source.as_str(),
                "digest": image.digest, "size": image.size, "created_at": saved.created_at,
            })
        };
        return output::json(&images.iter().map(record).collect::<Vec<_>>());
    }
    let row = |saved: &SavedImage| {
        let image = &saved.image;
        vec![
            image.tag.clone(),
            image.source.to_string(),
            megabytes(image.size),
            saved.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        ]
    };
    output::table(&["TAG", "SOURCE", "SIZE", "CREATED"], &images.iter().map(row).collect::<Vec<_>>())
}

async fn import(tag: String, environment: &Environment) -> Result<(), CliError> {
    let name = reference(&tag)?;
    let cache = cache(environment)?;
    let display = Display::new();
    output::note(&format!("Importing {tag} from stdin..."));
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(CliError::io("read standard input"))?;
    let progress: Arc<Display> = display.clone();
    let work = tokio::task::spawn_blocking(move || cache.import_file(File::from(input), &name, &*progress));
    let image = work.await.map_err(CliError::during("import image"))?;
    display.clear();
    let image = image.map_err(CliError::during("import image"))?;
    output::line(&format!("Imported: {tag}"))?;
    output::line(&format!("Digest: {}", image.digest))?;
    // Whatever the archive had, a sandbox mounts one.
    output::line("Layers: 1")?;
    output::line(&format!("Size: {}", megabytes(image.size)))
}
