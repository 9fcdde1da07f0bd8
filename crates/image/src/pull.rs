//! From a reference to an image file, through a registry.
//!
//! Called by [`ImageCache::resolve`](crate::ImageCache::resolve). Layers are downloaded side by side into the layer
//! cache while a thread unpacks them, base first, from the bytes that have arrived. Invariant: nothing gets its final
//! name before every digest on the way was checked: of the manifest, the configuration, the compressed layers and
//! their content.

use std::{collections::BTreeMap, sync::Arc};

use matchlock_model::{Digest, ImageConfig};
use matchlock_store::{Layer, LayerFormat};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
};

use crate::{
    ImageError, RegistryAccess,
    blob::{self, BlobError, LayerInput},
    cache::Storage,
    follow::{Follower, Growth},
    layers::{LayerCache, LayerError, Origin},
    lock::FileLock,
    manifest::{Configuration, Descriptor, Document, Manifest, ManifestError, select},
    platform::Platform,
    progress::{Event, Progress},
    reference::Reference,
    registry::Registry,
};

/// Most layers downloaded at a time, as Docker does it.
const PARALLEL_DOWNLOADS: usize = 3;

/// An image that is now in the cache, under no name yet.
pub(crate) struct Pulled {
    pub(crate) digest: Digest,
    pub(crate) content: Digest,
    pub(crate) size: u64,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Layer>,
}

/// What the registry says an image is.
struct Plan {
    digest: Digest,
    manifest: Manifest,
    configuration: Configuration,
}

/// An attempt that failed, and whether old files of ours may be to blame.
struct Failure {
    error: ImageError,
    suspect: bool,
}

/// Bring the image here. The caller holds the cache's lock, shared, until the image has its name.
pub(crate) async fn pull(
    storage: &Arc<Storage>,
    access: &RegistryAccess,
    reference: &Reference,
    progress: &Arc<dyn Progress>,
) -> Result<Pulled, ImageError> {
    let registry = Arc::new(Registry::connect(access, reference).await?);
    let plan = plan(&registry, reference, &storage.platform).await?;
    let bytes = plan.manifest.packed_bytes(storage.limits.packed_bytes)?;
    progress.event(Event::Resolved { layers: plan.manifest.layers.len(), bytes });

    let content = blob::content_digest(&plan.configuration.diff_ids);
    let path = storage.layout.blob(&content);
    let lock_path = storage.layout.blob_lock(&content);
    let lock = FileLock::exclusive_async(&lock_path, || progress.event(Event::Waiting)).await;
    let lock = Arc::new(lock.map_err(ImageError::cache(lock_path))?);
    let size = match blob::check(&path) {
        Some((_, size)) => size,
        None => match fetch(storage, &registry, &plan, content, &lock, progress).await {
            Ok(size) => size,
            Err(failure) if failure.suspect => {
                tracing::warn!(error = %failure.error, "cached layers are damaged; fetching them again");
                for layer in &plan.manifest.layers {
                    LayerCache::new(storage.layout.clone()).discard(&layer.digest);
                }
                let again = fetch(storage, &registry, &plan, content, &lock, progress).await;
                again.map_err(|failure| failure.error)?
            }
            Err(failure) => return Err(failure.error),
        },
    };
    let layer = |layer: &Descriptor| Layer { digest: layer.digest, format: LayerFormat::Tar, size: layer.size };
    let layers = plan.manifest.layers.iter().map(layer).collect();
    Ok(Pulled { digest: plan.digest, content, size, config: plan.configuration.config, layers })
}

/// The manifest for this platform, and its configuration.
async fn plan(registry: &Registry, reference: &Reference, platform: &Platform) -> Result<Plan, ImageError> {
    let (bytes, mut digest) = registry.document(&reference.version()).await?;
    let manifest = match Document::parse(&bytes)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(variants) => {
            let variant = select(&variants, platform)?;
            let (bytes, found) = registry.document(&variant.descriptor.digest.to_string()).await?;
            digest = found;
            match Document::parse(&bytes)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(ManifestError::NestedIndex.into()),
            }
        }
    };
    let bytes = registry.configuration(manifest.config.digest).await?;
    let configuration = Configuration::parse(&bytes, manifest.layers.len())?;
    configuration.require(platform)?;
    Ok(Plan { digest, manifest, configuration })
}

/// Download and unpack, both at once.
async fn fetch(
    storage: &Arc<Storage>,
    registry: &Arc<Registry>,
    plan: &Plan,
    content: Digest,
    lock: &Arc<FileLock>,
    progress: &Arc<dyn Progress>,
) -> Result<u64, Failure> {
    let mut downloads = JoinSet::new();
    let inputs = start_downloads(&mut downloads, storage, registry, plan, progress);
    let unpack = {
        // The thread outlives this future if that is dropped: it keeps the locks until its files are gone.
        let (storage, lock, progress) = (Arc::clone(storage), Arc::clone(lock), Arc::clone(progress));
        move || {
            let result = blob::build(&storage.layout, &storage.limits, &content, inputs, &*progress);
            drop(lock);
            result
        }
    };
    let mut unpacking = spawn_blocking(unpack);
    let (mut reused, mut failed, mut unpacked) = (false, None, None);
    loop {
        tokio::select! {
            Some(finished) = downloads.join_next() => match finished {
                Ok(Ok(origin)) => reused |= origin == Origin::Reused,
                // The unpacking thread ends with the download that it reads.
                Ok(Err(error)) => {
                    downloads.abort_all();
                    failed.get_or_insert(error);
                }
                Err(_aborted) => {}
            },
            finished = &mut unpacking, if unpacked.is_none() => {
                if !matches!(finished, Ok(Ok(_))) {
                    downloads.abort_all();
                }
                unpacked = Some(finished);
            }
            else => break,
        }
    }
    match (failed, unpacked) {
        (Some(error), _) => {
            let suspect = matches!(error, LayerError::Leftover(_));
            Err(Failure { error: error.into(), suspect })
        }
        (None, Some(Ok(Ok(size)))) => Ok(size),
        (None, Some(Ok(Err(error)))) => {
            let content = matches!(error, BlobError::Convert { .. } | BlobError::WrongLayer { .. });
            Err(Failure { error: error.into(), suspect: reused && content })
        }
        (None, Some(Err(_)) | None) => Err(Failure { error: ImageError::Interrupted, suspect: false }),
    }
}

/// One task per distinct layer; for each layer of the image, what will read it.
fn start_downloads(
    downloads: &mut JoinSet<Result<Origin, LayerError>>,
    storage: &Storage,
    registry: &Arc<Registry>,
    plan: &Plan,
    progress: &Arc<dyn Progress>,
) -> Vec<LayerInput<Follower>> {
    let mut growths: BTreeMap<Digest, Growth> = BTreeMap::new();
    let mut inputs = Vec::new();
    for (layer, diff_id) in plan.manifest.layers.iter().zip(&plan.configuration.diff_ids) {
        let growth = growths.entry(layer.digest).or_insert_with(Growth::new);
        inputs.push(LayerInput { reader: growth.follow(), diff_id: *diff_id });
    }
    let permits = Arc::new(Semaphore::new(PARALLEL_DOWNLOADS));
    // In the order in which they are unpacked: the semaphore is fair.
    for layer in &plan.manifest.layers {
        let Some(growth) = growths.remove(&layer.digest) else { continue };
        let (permits, registry, progress) = (Arc::clone(&permits), Arc::clone(registry), Arc::clone(progress));
        let (cache, layer) = (LayerCache::new(storage.layout.clone()), layer.clone());
        downloads.spawn(async move {
            let _permit = permits.acquire_owned().await;
            cache.fetch(&registry, &layer, growth, &*progress).await
        });
    }
    inputs
}
