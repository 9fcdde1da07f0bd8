//! Reading `vm.log`, once or as it grows. Used by `matchlock log`, from a process that is not the supervisor.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
    io::Errno,
};

use crate::log::previous;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Why a log was not read to its end.
#[derive(Debug)]
pub enum FollowError<E> {
    /// It cannot be read.
    Log(io::Error),
    /// Whoever takes it refused.
    Taker(E),
}

impl<E> From<io::Error> for FollowError<E> {
    fn from(error: io::Error) -> Self {
        Self::Log(error)
    }
}

/// Pass everything that is in the log at `path` now to `taker`. A log that does not exist is empty.
///
/// # Errors
/// The log cannot be read, or `taker` refuses.
pub fn read<E>(path: &Path, mut taker: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), FollowError<E>> {
    for part in [&previous(path), path] {
        if let Some(mut file) = open(part)? {
            drain(&mut file, &mut taker)?;
        }
    }
    Ok(())
}

/// [`read`], and then whatever is appended until `writer`, a pidfd of the supervisor, says that it has ended. Blocks.
///
/// # Errors
/// As for [`read`].
pub fn follow<E>(
    path: &Path,
    writer: &OwnedFd,
    mut taker: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), FollowError<E>> {
    let watch = match watch(path) {
        // The sandbox has been removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        watch => watch?,
    };
    if let Some(mut file) = open(&previous(path))? {
        drain(&mut file, &mut taker)?;
    }
    let mut file = open(path)?;
    let mut ended = false;
    loop {
        if let Some(file) = &mut file {
            drain(file, &mut taker)?;
        }
        // A full log has been put aside and a new one begun.
        if let Some(newer) = open(path)?.filter(|newer| !same(file.as_ref(), newer)) {
            if let Some(full) = &mut file {
                // What was written to it since the last look, before it was put aside.
                drain(full, &mut taker)?;
            }
            file = Some(newer);
            continue;
        }
        if ended {
            return Ok(());
        }
        ended = wait(&watch, writer)?;
    }
}

/// A watch over all changes in the log's folder.
fn watch(path: &Path) -> io::Result<OwnedFd> {
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVE;
    inotify::add_watch(&watch, folder, changes)?;
    Ok(watch)
}

/// Wait for a change; `true` if the writer has ended.
fn wait(watch: &OwnedFd, writer: &OwnedFd) -> io::Result<bool> {
    let mut both = [PollFd::new(watch, PollFlags::IN), PollFd::new(writer, PollFlags::IN)];
    match poll(&mut both, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ended = both[1].revents().contains(PollFlags::IN);
    // What changed does not matter: the files are looked at again after any change.
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(watch.as_fd(), &mut events) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(ended),
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same(a: Option<&File>, b: &File) -> bool {
    let inode = |file: &File| file.metadata().map(|data| (data.dev(), data.ino())).ok();
    a.is_some_and(|a| inode(a) == inode(b))
}

fn drain<E>(file: &mut File, taker: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), FollowError<E>> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            count => taker(&chunk[..count]).map_err(FollowError::Taker)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Command};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn follows_over_a_change_of_files_until_the_writer_ends() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("vm.log");
        std::fs::write(&path, "one ").unwrap();
        let mut writer = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&writer);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut seen = Vec::new();
        let mut steps = 0;
        let take = |bytes: &[u8]| -> io::Result<()> {
            seen.extend_from_slice(bytes);
            steps += 1;
            match steps {
                1 => File::options().append(true).open(&path)?.write_all(b"two "),
                2 => {
                    std::fs::rename(&path, previous(&path))?;
                    std::fs::write(&path, "three")
                }
                _ => {
                    drop(writer.stdin.take());
                    Ok(())
                }
            }
        };
        follow(&path, &pidfd, take).unwrap();
        writer.wait().unwrap();
        assert_eq!(String::from_utf8(seen).unwrap(), "one two three");
    }

    #[test]
    fn a_sandbox_that_was_removed_has_nothing_more_to_say() {
        let home = tempfile::tempdir().unwrap();
        let writer = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        follow::<()>(&home.path().join("gone/vm.log"), &writer, |_| Err(())).unwrap();
    }
}
