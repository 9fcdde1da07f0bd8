//! Saved guests: `~/.cache/matchlock/templates/<key>/`, each a machine that was booted once, saved while its guest was
//! parked, and is continued by every sandbox of its shape.
//!
//! ```text
//! template.json   what it was made from, and the checksums of the next three; its modification time is the last use
//! memory          the guest's memory, sparse; mapped privately by everyone who restores it
//! state           the VMM's saved devices and processors
//! layer           the writable disk as it was then, which the saved guest has mounted: everyone begins with a copy
//! checked.json    in which boot of the host the files were last compared with their digests, and as what
//! ```
//!
//! Called by [`crate::boot()`] and by the verbs that list and remove. Invariants: a folder with its final name is complete; it
//! is made under the folder's lock and never changed afterwards; what a crash of the host or a failing disk did to it is
//! found before it is used, because the files are read in full once in every boot.

mod contents;
mod listed;
mod recipe;

use std::{
    fs::{self, File},
    io::{self, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use thiserror::Error;

use self::{contents::Contents, recipe::Kept};
pub use self::{
    listed::Listed,
    recipe::{Recipe, Sources},
};
use crate::{
    cache::{Folder, read_bounded},
    tsc, upper,
};

const RECIPE: &str = "template.json";
const CHECKED: &str = "checked.json";
const MEMORY: &str = "memory";
const STATE: &str = "state";
const LAYER: &str = "layer";

/// Bound on the two JSON files: a digest for each MiB of a guest's memory is the largest part.
const MAX_JSON: u64 = 16 * 1024 * 1024;

/// Why a template cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TemplateError {
    #[error("there is no template of this shape")]
    Missing,
    #[error("the template {key} is damaged: {reason}")]
    Damaged { key: String, reason: String },
    #[error("the template {key} was made where the time-stamp counter runs at another rate")]
    OtherClock { key: String },
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The folder of templates.
#[derive(Clone, Debug)]
pub struct Templates {
    folder: PathBuf,
}

/// A template that was found to be what it was when it was made.
#[derive(Debug)]
pub struct Template {
    pub(crate) memory: File,
    pub(crate) state: File,
    /// The writable disk that its guest has mounted.
    pub layer: File,
}

/// A template under construction; dropped, nothing of it is left.
pub struct Unfinished {
    folder: Folder,
    staged: TempDir,
    recipe: Recipe,
}

/// `checked.json`.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Checked {
    boot_id: String,
    files: [Identity; 3],
}

/// What changes with a file's content, unless somebody has the rights to the device below it: size, inode, and the times of
/// the last change of content and of anything, in nanoseconds.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Identity(u64, u64, i128, i128);

impl Templates {
    /// The templates below `folder`, which is made when the first one is.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The template made from `recipe`, if there is one and it is as it was made.
    ///
    /// # Errors
    /// [`TemplateError`] if not.
    pub fn find(&self, recipe: &Recipe, tsc_khz: Option<u64>) -> Result<Template, TemplateError> {
        let key = recipe.key();
        let dir = self.folder.join(&key);
        let damaged = |reason: String| TemplateError::Damaged { key: key.clone(), reason };
        let text = match read_bounded(&dir.join(RECIPE), MAX_JSON) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TemplateError::Missing),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if kept.recipe.key() != key {
            return Err(damaged("it was made from something else".to_owned()));
        }
        if !tsc::same_rate(kept.tsc_khz, tsc_khz) {
            return Err(TemplateError::OtherClock { key });
        }
        let open = |name| File::options().read(true).write(name == MEMORY).open(dir.join(name));
        let opened = || -> io::Result<Template> {
            let mut template = Template { memory: open(MEMORY)?, state: open(STATE)?, layer: open(LAYER)? };
            check(&dir, &kept, &template)?;
            // The VMM reads on from here.
            template.state.rewind()?;
            Ok(template)
        };
        let template = opened().map_err(|error| damaged(error.to_string()))?;
        // Only `prune` looks at it, and a disk that is full or read-only is no reason not to start.
        let _ =
            File::options().append(true).open(dir.join(RECIPE)).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(template)
    }

    /// Wait until nobody else makes one, and begin to make the one from `recipe`; `None` if that is what somebody else was
    /// making. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn begin(&self, recipe: &Recipe, tsc_khz: Option<u64>) -> Result<Option<Unfinished>, TemplateError> {
        let failed = |e| TemplateError::Io(self.folder.clone(), e);
        let folder = Folder::lock(&self.folder).map_err(failed)?;
        if self.find(recipe, tsc_khz).is_ok() {
            return Ok(None);
        }
        let staged = folder.staging().map_err(failed)?;
        Ok(Some(Unfinished { folder, staged, recipe: recipe.clone() }))
    }

    /// All of them, in the order of their keys.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let key = entry.file_name().to_string_lossy().into_owned();
            if recipe::is_key(&key) {
                all.push(Listed::new(&entry.path(), key));
            }
        }
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    /// Remove the template `key`; false if there is none. Machines that were restored from it go on.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn remove(&self, key: &str) -> io::Result<bool> {
        if !recipe::is_key(key) || !self.folder.join(key).exists() {
            return Ok(false);
        }
        Folder::lock(&self.folder)?.discard(key)?;
        Ok(true)
    }

    /// Remove those that are made from none of these `sources`, if any are known, and those that were not used for
    /// `unused_for`; returns how many there were.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn sweep(&self, sources: &[Sources], unused_for: Duration) -> io::Result<usize> {
        let all = self.list()?;
        if !self.folder.exists() {
            return Ok(0);
        }
        // Also clears what killed makers left.
        let folder = Folder::lock(&self.folder)?;
        let mut removed = 0;
        let superseded = |listed: &Listed| !sources.is_empty() && !listed.is_current(sources);
        for listed in all.iter().filter(|listed| superseded(listed) || listed.idle() >= unused_for) {
            folder.discard(&listed.key)?;
            removed += 1;
        }
        Ok(removed)
    }
}

impl Unfinished {
    /// The file for the VMM's state.
    pub(crate) fn state(&self) -> io::Result<File> {
        self.create(STATE)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600).open(self.staged.path().join(name))
    }

    /// The files for what belongs to the state, empty.
    pub(crate) fn copies(&self) -> io::Result<Copies> {
        Ok(Copies { memory: self.create(MEMORY)?, layer: self.create(LAYER)?, state: self.open(STATE)? })
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.staged.path().join(name))
    }

    /// State and copies are written: the template gets its name.
    pub(crate) fn publish(self, contents: [Contents; 3], tsc_khz: Option<u64>) -> io::Result<()> {
        let [memory, state, layer] = [self.open(MEMORY)?, self.open(STATE)?, self.open(LAYER)?];
        let kept = Kept { recipe: self.recipe, tsc_khz, contents };
        let dir = self.staged.path();
        let write = |name: &str, text: Vec<u8>| File::create_new(dir.join(name))?.write_all(&text);
        write(RECIPE, serde_json::to_vec(&kept)?)?;
        write(CHECKED, serde_json::to_vec(&Checked::now(&memory, &state, &layer)?)?)?;
        // Not synced: should the host crash, the next boot compares the digests, and a template can be made again.
        self.folder.name_dir(self.staged, &kept.recipe.key()).map(drop)
    }
}

/// A template's own files, but for what tells what they are.
pub(crate) struct Copies {
    memory: File,
    layer: File,
    state: File,
}

impl Copies {
    /// Copy `memory` and the first `layer_size` bytes of `layer`, which belong to the state. Blocks, and does not need the template to
    /// be still wanted.
    pub(crate) fn fill(&self, memory: &File, layer: &File, layer_size: u64) -> io::Result<[Contents; 3]> {
        let memory = contents::copy(memory, &self.memory)?;
        upper::copy_sparsely(layer, &self.layer)?;
        self.layer.set_len(layer_size)?;
        Ok([memory, Contents::of(&self.state)?, Contents::of(&self.layer)?])
    }
}

/// Compare content with digests, unless that was done in this boot and nothing has changed since.
fn check(dir: &Path, kept: &Kept, template: &Template) -> io::Result<()> {
    let Template { memory, state, layer } = template;
    let now = Checked::now(memory, state, layer)?;
    let known = read_bounded(&dir.join(CHECKED), MAX_JSON).ok();
    if known.and_then(|text| serde_json::from_slice::<Checked>(&text).ok()).is_some_and(|known| known == now) {
        return Ok(());
    }
    for ((name, file), recorded) in [(MEMORY, memory), (STATE, state), (LAYER, layer)].into_iter().zip(&kept.contents) {
        if Contents::of(file)? != *recorded {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} has changed")));
        }
    }
    let text = serde_json::to_vec(&now)?;
    let remember = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&text)?;
        file.persist(dir.join(CHECKED)).map_err(|e| e.error)?;
        Ok(())
    };
    if let Err(error) = remember() {
        tracing::debug!("cannot remember that {} was checked: {error}", dir.display());
    }
    Ok(())
}

impl Checked {
    fn now(memory: &File, state: &File, layer: &File) -> io::Result<Self> {
        let files = [Identity::of(memory)?, Identity::of(state)?, Identity::of(layer)?];
        Ok(Self { boot_id: tsc::boot_id()?, files })
    }
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let content = nanoseconds(meta.mtime(), meta.mtime_nsec());
        Ok(Self(meta.len(), meta.ino(), content, nanoseconds(meta.ctime(), meta.ctime_nsec())))
    }
}

#[cfg(test)]
mod tests;
