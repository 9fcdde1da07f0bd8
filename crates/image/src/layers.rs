//! The cache of compressed layers, `images/layers/sha256_<hex>`, filled from registries.
//!
//! Called by pull, one task per layer. Invariant: a file under its final name is complete and has that digest; a
//! download that broke off stays as `*.tmp` under its lock and is taken up where it ended.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use matchlock_model::{CacheLayout, Digest};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{
    follow::Growth,
    lock::FileLock,
    manifest::Descriptor,
    progress::{Event, Progress},
    registry::{Registry, RegistryError},
};

/// Tries in a row that bring nothing before a download is given up.
const MAX_IDLE_TRIES: u32 = 5;

/// Why a layer could not be had.
#[derive(Debug, Error)]
pub(crate) enum LayerError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The layer is not what it should be, and part of it was left by an earlier download.
    #[error(transparent)]
    Leftover(RegistryError),
    #[error("write layer {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// Where a layer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// All of it from the registry, just now.
    Fresh,
    /// At least in part from an earlier pull, perhaps one that ended with the power.
    Reused,
}

/// The folder of compressed layers.
#[derive(Clone, Debug)]
pub(crate) struct LayerCache {
    layout: CacheLayout,
}

/// A layer on its way from a registry.
struct Download<'a> {
    path: &'a Path,
    file: &'a File,
    layer: &'a Descriptor,
    sha256: Sha256,
    length: u64,
}

impl LayerCache {
    pub(crate) const fn new(layout: CacheLayout) -> Self {
        Self { layout }
    }

    /// Forget a layer that turned out to be damaged. Its lock file stays, empty.
    pub(crate) fn discard(&self, digest: &Digest) {
        let _ = std::fs::remove_file(self.layout.layer(digest));
        if let Ok(Some(lock)) = FileLock::try_exclusive(&self.layout.partial_layer(digest)) {
            let _ = lock.file().set_len(0);
        }
    }

    /// Bring `layer` here, telling the followers of `growth` as it comes.
    pub(crate) async fn fetch(
        &self,
        registry: &Registry,
        layer: &Descriptor,
        growth: Growth,
        progress: &dyn Progress,
    ) -> Result<Origin, LayerError> {
        let (path, partial) = (self.layout.layer(&layer.digest), self.layout.partial_layer(&layer.digest));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LayerError::Write { path, source }
        };
        if let Some(file) = complete(&path, layer) {
            return Ok(use_cached(file, layer, growth, progress));
        }
        let lock = loop {
            let lock = FileLock::exclusive_async(&partial, || ()).await.map_err(failed(&partial))?;
            if let Some(file) = complete(&path, layer) {
                return Ok(use_cached(file, layer, growth, progress));
            }
            // Whoever had the lock may have finished, and that file have been discarded since.
            if lock.is_at(&partial) {
                break lock;
            }
        };
        let file = lock.file().try_clone().map_err(failed(&partial))?;
        let (sha256, length) = hash_existing(file, layer.size).await.map_err(failed(&partial))?;
        let origin = if length == 0 { Origin::Fresh } else { Origin::Reused };
        growth.start(lock.file().try_clone().map_err(failed(&partial))?, length);

        let mut download = Download { path: &partial, file: lock.file(), layer, sha256, length };
        download.run(registry, &growth, progress).await?;
        let found = Digest::from_bytes(download.sha256.finalize().into());
        if found != layer.digest {
            lock.file().set_len(0).map_err(failed(&partial))?;
            let error = RegistryError::WrongDigest { what: "a layer".to_owned(), found, expected: layer.digest };
            return Err(match origin {
                Origin::Fresh => LayerError::Registry(error),
                Origin::Reused => LayerError::Leftover(error),
            });
        }
        growth.complete();
        // The converter goes on meanwhile: nothing but a later pull needs the name and the bytes on the disk.
        publish(lock, partial.clone(), path).await.map_err(failed(&partial))?;
        Ok(origin)
    }
}

impl Download<'_> {
    async fn run(&mut self, registry: &Registry, growth: &Growth, progress: &dyn Progress) -> Result<(), LayerError> {
        let mut idle_tries = 0;
        while self.length < self.layer.size {
            let before = self.length;
            match self.transfer(registry, growth, progress).await {
                Ok(()) => {}
                Err(LayerError::Registry(error)) if error.is_interruption() && idle_tries < MAX_IDLE_TRIES => {
                    idle_tries = if self.length > before { 0 } else { idle_tries + 1 };
                    progress.event(Event::Retrying { layer: self.layer.digest });
                    registry.pause(idle_tries).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One request, from where the file ends to where the registry stops sending.
    async fn transfer(
        &mut self,
        registry: &Registry,
        growth: &Growth,
        progress: &dyn Progress,
    ) -> Result<(), LayerError> {
        let mut body = registry.blob(self.layer.digest, self.length).await?;
        let mut skip = if body.resumed { 0 } else { self.length };
        while let Some(chunk) = body.chunk(registry).await? {
            let chunk = chunk.as_ref();
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            let chunk = &chunk[skipped..];
            let length = self.length + chunk.len() as u64;
            if length > self.layer.size {
                return Err(self.wrong_size(length));
            }
            let written = self.file.write_all_at(chunk, self.length);
            written.map_err(|source| LayerError::Write { path: self.path.to_owned(), source })?;
            self.sha256.update(chunk);
            self.length = length;
            growth.advance(length);
            let (layer, total) = (self.layer.digest, self.layer.size);
            progress.event(Event::Downloading { layer, done: length, total });
        }
        // A registry that says it is done and is not will say the same again.
        if self.length < self.layer.size { Err(self.wrong_size(self.length)) } else { Ok(()) }
    }

    fn wrong_size(&self, found: u64) -> LayerError {
        RegistryError::WrongSize { what: "a layer".to_owned(), found, expected: self.layer.size }.into()
    }
}

fn complete(path: &Path, layer: &Descriptor) -> Option<File> {
    let file = File::open(path).ok()?;
    (file.metadata().ok()?.len() == layer.size).then_some(file)
}

fn use_cached(file: File, layer: &Descriptor, growth: Growth, progress: &dyn Progress) -> Origin {
    growth.start(file, layer.size);
    growth.complete();
    progress.event(Event::LayerCached { layer: layer.digest, bytes: layer.size });
    Origin::Reused
}

/// The hash of what an earlier download left, and its length; more than the layer's `size` cannot belong to it.
async fn hash_existing(file: File, size: u64) -> io::Result<(Sha256, u64)> {
    let hash = move || {
        let mut sha256 = Sha256::new();
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        let (mut reader, mut length, mut buffer) = (file, 0, vec![0; 256 << 10]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok((sha256, length)),
                read => {
                    sha256.update(&buffer[..read]);
                    length += read as u64;
                }
            }
        }
    };
    tokio::task::spawn_blocking(hash).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Onto the disk, then under its final name.
async fn publish(lock: FileLock, partial: PathBuf, path: PathBuf) -> io::Result<()> {
    let publish = move || {
        lock.file().sync_all()?;
        std::fs::rename(partial, path)
    };
    tokio::task::spawn_blocking(publish).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
