//! A home for one test: `HOME` for every program it starts, removed at its end, and by then nothing may use it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use matchlock_model::{CacheLayout, StateLayout};
use tempfile::TempDir;

use crate::{Matchlock, leaks, matchlock_binary, target::made_once};

/// How long a process may take that is about to end, such as a virtual machine whose supervisor was killed.
const ENDING_DEADLINE: Duration = Duration::from_secs(10);

/// An empty home folder.
///
/// Its drop fails the test if a process, a socket or anything of a sandbox but its log is left; the processes are ended.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    environment: Vec<(String, OsString)>,
}

impl Home {
    /// A home with nothing in it, not even a kernel.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn empty() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("matchlock-").tempdir()?;
        Ok(Self { dir, environment: Vec::new() })
    }

    /// A home that shares the kernels that were fetched with all other tests, and what one program makes of them.
    ///
    /// # Errors
    /// Folders cannot be made.
    pub fn new() -> Result<Self> {
        let home = Self::empty()?;
        let cache = home.cache();
        fs::create_dir_all(cache.root())?;
        let kernels = made_once("kernels", "all", |path| Ok(fs::create_dir(path)?))?;
        std::os::unix::fs::symlink(kernels, cache.kernels())?;
        let version = binary_version()?;
        for (name, link) in [("initramfs", cache.initramfs()), ("templates", cache.templates())] {
            std::os::unix::fs::symlink(made_once(name, &version, |path| Ok(fs::create_dir(path)?))?, link)?;
        }
        Ok(home)
    }

    /// A home as [`Self::new`] makes it, in which the archive `image` has been imported as `tag`.
    ///
    /// # Errors
    /// The import fails.
    pub fn with_image(tag: &str, image: &Path) -> Result<Self> {
        let home = Self::new()?;
        let image_name = image.file_stem().and_then(OsStr::to_str).context("an image's name")?;
        let name = format!("imported-as-{}", tag.replace(['/', ':'], "_"));
        let version = format!("{image_name}.{}", binary_version()?);
        let store = made_once(&name, &version, |path| {
            let home = Self::new()?;
            home.matchlock(["image", "import", tag]).stdin_file(image).run()?.success()?;
            copy_folder(&home.cache().images(), path)
        })?;
        copy_folder(&store, &home.cache().images())?;
        Ok(home)
    }

    /// The same, where every `matchlock` has this variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its `~/.matchlock`.
    #[must_use]
    pub fn state(&self) -> StateLayout {
        StateLayout::new(self.path())
    }

    /// Its `~/.cache/matchlock`.
    #[must_use]
    pub fn cache(&self) -> CacheLayout {
        CacheLayout::new(self.path())
    }

    /// The `matchlock` under test with these arguments and this home.
    pub fn matchlock<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Matchlock {
        let command = Matchlock::new(self.path(), arguments);
        self.environment.iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// What is still there of sandboxes, one line each: processes that know this home, sockets, and files of sandboxes
    /// other than the logs of kept ones. A process that is about to end is given time to.
    ///
    /// # Errors
    /// `/proc` or the home cannot be read.
    pub fn leaks(&self) -> Result<Vec<String>> {
        let mut found: Vec<String> = leaks::processes(self.path(), ENDING_DEADLINE)?
            .into_iter()
            .map(|process| format!("process {process}"))
            .collect();
        let vms = self.state().vms();
        let mut open = vec![self.state().root().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in read_folder(&folder)? {
                let kind = fs::symlink_metadata(&entry)?.file_type();
                let of_sandbox = entry.parent().and_then(Path::parent) == Some(&vms);
                if kind.is_socket() {
                    found.push(format!("socket {}", entry.display()));
                } else if of_sandbox && !entry.ends_with("vm.log") {
                    found.push(format!("file {}", entry.display()));
                } else if kind.is_dir() {
                    open.push(entry);
                }
            }
        }
        Ok(found)
    }

    /// Fail if something is left.
    ///
    /// # Errors
    /// The list of [`Self::leaks`].
    pub fn assert_nothing_left(&self) -> Result<()> {
        let leaks = self.leaks()?;
        ensure!(leaks.is_empty(), "left in {}:\n{}", self.path().display(), leaks.join("\n"));
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let left = self.assert_nothing_left();
        leaks::end_processes(self.path());
        if !std::thread::panicking()
            && let Err(error) = left
        {
            panic!("{error:?}");
        }
    }
}

/// The entries of a folder; none if it does not exist.
/// Tells one build of the program under test from another, which may make other files.
fn binary_version() -> Result<String> {
    let binary = fs::metadata(matchlock_binary()?)?;
    Ok(format!("{}.{}", binary.mtime_nsec(), binary.len()))
}

fn read_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Files of at least this size are image content: they never change once they have their name.
const CONTENT: u64 = 1 << 20;

/// Copy a folder. Content gets a second name where that is possible; databases and locks are really copied.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in read_folder(from)? {
        let target = to.join(entry.file_name().context("a name")?);
        if entry.is_dir() {
            copy_folder(&entry, &target)?;
        } else if entry.metadata()?.len() < CONTENT || fs::hard_link(&entry, &target).is_err() {
            fs::copy(&entry, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_log_may_stay_and_nothing_else_of_a_sandbox() {
        let home = Home::empty().unwrap();
        let vm = home.state().vms().join("vm-00000001");
        fs::create_dir_all(&vm).unwrap();
        fs::write(vm.join("vm.log"), "all was well").unwrap();
        assert_eq!(home.leaks().unwrap(), [""; 0]);

        fs::write(vm.join("upper.ext4"), "").unwrap();
        let listener = UnixListener::bind(vm.join("exec.sock")).unwrap();
        let mut leaks = home.leaks().unwrap();
        leaks.sort();
        assert_eq!(leaks.len(), 2, "{leaks:?}");
        assert!(leaks[0].starts_with("file ") && leaks[1].starts_with("socket "), "{leaks:?}");
        assert!(home.assert_nothing_left().is_err());
        drop(listener);
        fs::remove_dir_all(vm).unwrap();
    }
}
