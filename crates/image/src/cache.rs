//! [`ImageCache`]: the images of one user, by name.
//!
//! Called by the sandbox's start and by the image verbs. An image is in one of three states:
//!
//! ```text
//! absent ── layers arrive (`*.tmp`, locked) ──> blob without a row ── row saved ──> named
//!    ^                                                 │                              │ last row deleted
//!    └──────────────── sweep ──────────────────────────┴──────────────────────────────┘
//! ```
//!
//! Whoever moves to the right holds the cache's lock, shared, for the whole way; the sweep holds it exclusively.
//! A process that is killed leaves what the next sweep deletes, and no lock.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use matchlock_model::{CacheLayout, Digest, ImageConfig};
use matchlock_store::{Image as Row, ImageStore, Layer, LayerFormat, SavedImage, Scope, Source};

use crate::{
    ImageError, Limits, RegistryAccess, Swept,
    blob::{self, LayerInput},
    import::{self, Archive, ArchiveError, Contained},
    lock::FileLock,
    platform::Platform,
    progress::{Event, Progress},
    pull::{self, Pulled},
    reference::Reference,
    sweep::{self, Sweep},
};

/// The images of one user, by name.
#[derive(Debug)]
pub struct ImageCache {
    storage: Arc<Storage>,
    access: RegistryAccess,
    store: Mutex<ImageStore>,
}

/// Where files go and what they may be; shared with the threads that make them.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) layout: CacheLayout,
    pub(crate) limits: Limits,
    pub(crate) platform: Platform,
}

/// An image that is ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, as it was typed when the image was saved.
    pub tag: String,
    /// Who named it.
    pub scope: Scope,
    /// The digest of its manifest; the image ID where it came without one.
    pub digest: Digest,
    /// What its file is named by: equal for equal layers.
    pub content: Digest,
    /// The EROFS image.
    pub rootfs: Rootfs,
    /// What it says about how to run it.
    pub config: ImageConfig,
    /// Bytes of the EROFS image.
    pub size: u64,
    /// It was here already.
    pub cached: bool,
}

/// An image's file, open: whoever has it does not mind that the image is removed.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// Where it was found.
    pub path: PathBuf,
    /// Open for reading.
    pub file: Arc<File>,
}

impl AsRef<Path> for Rootfs {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl PartialEq for Rootfs {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Rootfs {}

impl ImageCache {
    /// Open the cache at `layout`, making it where needed. Registries are reached as `access` says.
    ///
    /// # Errors
    /// The folders cannot be made, or the database is damaged.
    pub fn open(layout: &CacheLayout, access: RegistryAccess) -> Result<Self, ImageError> {
        let store = ImageStore::open(layout)?;
        for dir in [layout.blobs(), layout.layers()] {
            std::fs::create_dir_all(&dir).map_err(ImageError::cache(dir))?;
        }
        let storage = Storage { layout: layout.clone(), limits: Limits::default(), platform: Platform::host() };
        Ok(Self { storage: Arc::new(storage), access, store: Mutex::new(store) })
    }

    /// The image that `reference` names: the user's own first, then what was pulled before, then the registry's.
    /// With `refresh`, the registry is asked in any case, and the user's own images are passed over.
    ///
    /// # Errors
    /// Everything a registry can do to one; [`ImageError::Damaged`] for an image of the user's that lost its file.
    pub async fn resolve(
        &self,
        reference: &Reference,
        refresh: bool,
        progress: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        if !refresh && let Some(image) = self.cached(reference)? {
            return Ok(image);
        }
        let lock = self.share().await?;
        let pulled = match pull::pull(&self.storage, &self.access, reference, &progress).await {
            Ok(pulled) => pulled,
            Err(error) => {
                drop(lock);
                // But for its layers, with which the next try goes on.
                self.sweep_quietly(sweep::images);
                return Err(error);
            }
        };
        let Pulled { digest, content, size, config, layers } = pulled;
        let (scope, source) = (Scope::Registry, Source::Registry);
        let rootfs_path = self.storage.layout.blob(&content);
        let row = Row { scope, tag: reference.typed().to_owned(), digest, size, source, rootfs_path, config, layers };
        self.save(reference, &row)?;
        drop(lock);
        self.sweep_quietly(sweep::all);
        self.named(Scope::Registry, reference, false)
    }

    /// The image that `reference` names, if it is here.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] for an image of the user's that lost its file; a pulled one counts as absent then.
    pub fn cached(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        for scope in [Scope::Local, Scope::Registry] {
            if let Some(saved) = self.find(scope, reference)? {
                match (self.ready(saved, true), scope) {
                    (Some(image), _) => return Ok(Some(image)),
                    (None, Scope::Local) => return Err(ImageError::Damaged(reference.typed().to_owned())),
                    (None, Scope::Registry) => {}
                }
            }
        }
        // Nobody is sent to a registry because of a database that has lost its rows.
        self.list().map(|_| None)
    }

    /// Read an image from the archive `input`, plain or compressed, and name it `tag`.
    ///
    /// # Errors
    /// What is wrong with the archive, the image in it or its layers; nothing is kept then.
    pub fn import(&self, input: impl Read, tag: &Reference, progress: &dyn Progress) -> Result<Image, ImageError> {
        self.import_with(tag, progress, |storage| {
            Archive::read(input, &storage.layout.images(), &storage.limits, progress)
        })
    }

    /// As [`import`](Self::import), from an open file such as standard input. A regular file is read in place.
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn import_file(&self, input: File, tag: &Reference, progress: &dyn Progress) -> Result<Image, ImageError> {
        self.import_with(tag, progress, |storage| {
            Archive::read_file(input, &storage.layout.images(), &storage.limits, progress)
        })
    }

    /// Give `image` the further name `tag`.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if it was removed meanwhile.
    pub fn tag(&self, image: &Image, tag: &Reference) -> Result<Image, ImageError> {
        nameable(tag)?;
        let lock = FileLock::shared(&self.lock_path()).map_err(ImageError::cache(self.lock_path()))?;
        let found = self.store().get(image.scope, &image.tag)?;
        let mut row = found.ok_or_else(|| ImageError::NotFound(image.tag.clone()))?.image;
        (row.scope, row.source, row.tag) = (Scope::Local, Source::Tag, tag.typed().to_owned());
        self.save(tag, &row)?;
        drop(lock);
        self.sweep_quietly(sweep::all);
        self.named(Scope::Local, tag, true)
    }

    /// Forget an image: the user's own of that name if there is one, else the pulled one. What nothing else needs is
    /// deleted; a sandbox that runs from it keeps its open file.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn remove(&self, tag: &Reference) -> Result<(), ImageError> {
        for scope in [Scope::Local, Scope::Registry] {
            if let Some(saved) = self.find(scope, tag)? {
                self.store().delete(scope, &saved.image.tag)?;
                self.sweep_quietly(sweep::all);
                return Ok(());
            }
        }
        self.list()?;
        Err(ImageError::NotFound(tag.typed().to_owned()))
    }

    /// All images: the user's own, then the pulled ones, each the newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn list(&self) -> Result<Vec<SavedImage>, ImageError> {
        Ok(self.store().list()?)
    }

    /// Delete what no image needs.
    ///
    /// # Errors
    /// The database cannot be read, or a file cannot be deleted.
    pub fn gc(&self) -> Result<Swept, ImageError> {
        self.sweep(sweep::all)
    }

    fn sweep(&self, sweep: Sweep) -> Result<Swept, ImageError> {
        let path = self.lock_path();
        let Some(_lock) = FileLock::try_exclusive(&path).map_err(ImageError::cache(path))? else {
            return Ok(Swept { busy: true, ..Swept::default() });
        };
        let referenced = self.store().referenced()?;
        let images = self.storage.layout.images();
        sweep(&self.storage.layout, &referenced).map_err(ImageError::cache(images))
    }

    fn import_with(
        &self,
        tag: &Reference,
        progress: &dyn Progress,
        read: impl FnOnce(&Storage) -> Result<Archive, ArchiveError>,
    ) -> Result<Image, ImageError> {
        nameable(tag)?;
        let imported = self.import_locked(tag, progress, read);
        // Whatever came of it.
        self.sweep_quietly(sweep::all);
        imported?;
        self.named(Scope::Local, tag, false)
    }

    fn import_locked(
        &self,
        tag: &Reference,
        progress: &dyn Progress,
        read: impl FnOnce(&Storage) -> Result<Archive, ArchiveError>,
    ) -> Result<(), ImageError> {
        let Storage { layout, limits, platform } = &*self.storage;
        let _lock = FileLock::shared(&self.lock_path()).map_err(ImageError::cache(self.lock_path()))?;
        let archive = read(&self.storage)?;
        let Contained { digest, configuration, layers: spans } = import::find(&archive, platform)?;
        let content = blob::content_digest(&configuration.diff_ids);
        let lock_path = layout.blob_lock(&content);
        let blob_lock = FileLock::exclusive(&lock_path, || progress.event(Event::Waiting));
        let _blob_lock = blob_lock.map_err(ImageError::cache(lock_path))?;
        let layer = |(&digest, size)| Layer { digest, format: LayerFormat::Tar, size };
        let sizes = spans.iter().map(import::Span::length);
        let layers = configuration.diff_ids.iter().zip(sizes).map(layer).collect();
        let size = if let Some((_, size)) = blob::check(&layout.blob(&content)) {
            size
        } else {
            let input = |(reader, &diff_id)| LayerInput { reader, diff_id };
            let inputs = spans.into_iter().zip(&configuration.diff_ids).map(input).collect();
            blob::build(layout, limits, &content, inputs, progress)?
        };
        let rootfs_path = layout.blob(&content);
        let (scope, source, config) = (Scope::Local, Source::Import, configuration.config);
        let row = Row { scope, tag: tag.typed().to_owned(), digest, size, source, rootfs_path, config, layers };
        self.save(tag, &row)
    }

    /// The row that `reference` names, in whatever spelling it was saved. This is on the way of every start, so that the
    /// database is not searched for damage here; who concludes something from `None` does that.
    fn find(&self, scope: Scope, reference: &Reference) -> Result<Option<SavedImage>, ImageError> {
        let store = self.store();
        if let Some(exact) = store.get(scope, reference.typed())? {
            return Ok(Some(exact));
        }
        match store.tags(scope)?.iter().find(|tag| names(tag, reference)) {
            Some(tag) => Ok(store.get(scope, tag)?),
            None => Ok(None),
        }
    }

    /// Save `row` in place of every row that `reference` names in its scope.
    fn save(&self, reference: &Reference, row: &Row) -> Result<(), ImageError> {
        let mut store = self.store();
        // First the new one: a crash in between leaves two names for one image rather than none.
        store.save(row)?;
        for other in store.list()? {
            let other = other.image;
            if other.scope == row.scope && other.tag != row.tag && names(&other.tag, reference) {
                store.delete(other.scope, &other.tag)?;
            }
        }
        Ok(())
    }

    fn named(&self, scope: Scope, reference: &Reference, cached: bool) -> Result<Image, ImageError> {
        let saved = self.find(scope, reference)?;
        let ready = saved.and_then(|saved| self.ready(saved, cached));
        ready.ok_or_else(|| ImageError::NotFound(reference.typed().to_owned()))
    }

    /// The image of a row, if its file is whole.
    fn ready(&self, saved: SavedImage, cached: bool) -> Option<Image> {
        let Row { scope, tag, digest, rootfs_path, config, size, .. } = saved.image;
        // The file's name is what counts: the cache may have been moved.
        let hex = rootfs_path.file_stem()?.to_str()?.strip_prefix("sha256_")?;
        let content: Digest = format!("sha256:{hex}").parse().ok()?;
        let path = self.storage.layout.blob(&content);
        let (file, _) = blob::check(&path).filter(|(_, length)| *length == size)?;
        let rootfs = Rootfs { path, file: Arc::new(file) };
        Some(Image { tag, scope, digest, content, rootfs, config, size, cached })
    }

    /// Sweep after something else; a failure is the next sweep's to deal with.
    fn sweep_quietly(&self, sweep: Sweep) {
        if let Err(error) = self.sweep(sweep) {
            tracing::warn!(%error, "unneeded image files could not be deleted");
        }
    }

    async fn share(&self) -> Result<FileLock, ImageError> {
        FileLock::shared_async(&self.lock_path()).await.map_err(ImageError::cache(self.lock_path()))
    }

    fn lock_path(&self) -> PathBuf {
        self.storage.layout.image_lock()
    }

    fn store(&self) -> MutexGuard<'_, ImageStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `tag` is another spelling of `reference`.
fn names(tag: &str, reference: &Reference) -> bool {
    tag.parse::<Reference>().is_ok_and(|tag| tag.canonical() == reference.canonical())
}

fn nameable(tag: &Reference) -> Result<(), ImageError> {
    match tag.digest() {
        Some(_) => Err(ImageError::DigestAsTag(tag.typed().to_owned())),
        None => Ok(()),
    }
}
