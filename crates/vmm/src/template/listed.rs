//! What can be told about a template without continuing it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    MAX_JSON, RECIPE,
    recipe::{Kept, Recipe, Sources},
};
use crate::cache::read_bounded;

/// What is known about one template, for people.
#[derive(Debug)]
pub struct Listed {
    /// Its folder's name.
    pub key: String,
    /// What it was made from; `None` if that cannot be read.
    pub recipe: Option<Recipe>,
    /// Bytes that it takes up on the disk.
    pub size: u64,
    /// When it was last restored, or else made.
    pub used: SystemTime,
}

impl Listed {
    pub(super) fn new(dir: &Path, key: String) -> Self {
        let recipe = read_bounded(&dir.join(RECIPE), MAX_JSON).ok();
        let recipe = recipe.and_then(|text| serde_json::from_slice::<Kept>(&text).ok()).map(|kept| kept.recipe);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let size = entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum();
        let used = fs::metadata(dir.join(RECIPE)).and_then(|meta| meta.modified());
        Self { key, recipe, size, used: used.unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    /// Is it known to be made from one of these?
    #[must_use]
    pub fn is_current(&self, sources: &[Sources]) -> bool {
        self.recipe.as_ref().is_some_and(|recipe| sources.iter().any(|sources| recipe.is_made_from(sources)))
    }

    /// For how long it was not used. A use in the future is the host's clock, which was set back: that is no time at all.
    pub(super) fn idle(&self) -> Duration {
        self.used.elapsed().unwrap_or_default()
    }
}
