//! A cache in a temporary home, and what tests ask of it.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use matchlock_image::{Event, Image, ImageCache, ImageError, Progress, Reference, RegistryAccess};
use matchlock_model::CacheLayout;
use matchlock_testkit::{ImageSpec, LayerTar, run, tool};
use tempfile::TempDir;

/// A home folder.
pub(crate) struct Home {
    dir: TempDir,
}

/// Remembers every event.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<Event>>);

impl Progress for Recorder {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Recorder {
    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn layout(&self) -> CacheLayout {
        CacheLayout::new(self.dir.path())
    }

    pub(crate) fn cache(&self) -> ImageCache {
        self.cache_with(RegistryAccess::anonymous())
    }

    pub(crate) fn cache_with(&self, access: RegistryAccess) -> ImageCache {
        ImageCache::open(&self.layout(), access).unwrap()
    }

    /// The names of all files in the cache but the database and the cache's lock, digests shortened.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in [self.layout().blobs(), self.layout().layers()] {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let tail: String = name.chars().skip("sha256_".len() + 64).collect();
                names.push(format!("{}/…{tail}", dir.file_name().unwrap().to_str().unwrap()));
            }
        }
        names.sort();
        names
    }

    /// As [`files`](Self::files), without locks and what is not finished.
    pub(crate) fn finished(&self) -> Vec<String> {
        let unfinished = |name: &String| Path::new(name).extension().is_some_and(|end| end == "tmp" || end == "lock");
        self.files().into_iter().filter(|name| !unfinished(name)).collect()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// The line that a user would see.
pub(crate) fn line(error: &ImageError) -> String {
    let (mut parts, mut cause) = (vec![error.to_string()], error.source());
    while let Some(next) = cause {
        parts.push(next.to_string());
        cause = next.source();
    }
    parts.join(": ")
}

pub(crate) async fn pull(cache: &ImageCache, text: &str) -> Result<Image, String> {
    cache.resolve(&reference(text), false, Arc::new(())).await.map_err(|error| line(&error))
}

/// An image of one layer with one file.
pub(crate) fn small(content: &str) -> ImageSpec {
    ImageSpec::new(vec![LayerTar::new().file("file", 0o644, content.as_bytes()).unwrap().finish().unwrap()])
}

/// Bytes that no compression makes smaller, different for each `seed`.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = 2 * seed + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

/// What the distribution's own reader finds in an image.
pub(crate) fn unpack(image: &Image) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let extract = format!("--extract={}", dir.path().join("root").display());
    run(tool("fsck.erofs", "erofs-utils").unwrap().arg(extract).arg(&image.rootfs.path)).unwrap();
    dir
}

/// The text of the file `path` in an image.
pub(crate) fn text(image: &Image, path: &str) -> String {
    std::fs::read_to_string(unpack(image).path().join("root").join(path)).unwrap()
}
