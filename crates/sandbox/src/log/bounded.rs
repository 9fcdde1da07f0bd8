//! A file that a guest cannot fill the disk with: a full one is put aside, replacing the one before.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Bytes after which a log file is put aside; there are at most two.
pub(crate) const FULL: u64 = 32 * 1024 * 1024;

/// Such a file, open for appending.
#[derive(Debug)]
pub(crate) struct BoundedFile {
    path: PathBuf,
    file: File,
    size: u64,
    full: u64,
    /// The first line of one that follows another, which is at this path now.
    continued: fn(&Path) -> String,
}

impl BoundedFile {
    /// Begin the file at `path`, which has up to `full` bytes.
    pub(crate) fn create(path: &Path, full: u64, continued: fn(&Path) -> String) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, size: 0, full, continued })
    }

    /// Append these bytes, which stay together. A disk that takes no more loses lines, never the sandbox.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_append(bytes) {
            tracing::debug!("write to {}: {error}", self.path.display());
        }
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > self.full {
            let aside = previous(&self.path);
            match std::fs::rename(&self.path, &aside) {
                // The last attempt got this far, and could not open the next file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
            self.file = open(&self.path)?;
            // From here on it is this one that is full or not: the one that was put aside stays if the next line cannot be written.
            self.size = 0;
            let line = (self.continued)(&aside);
            self.file.write_all(line.as_bytes())?;
            self.size = line.len() as u64;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Where the full log before the one at `path` is put.
#[must_use]
pub(crate) fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_could_not_be_opened_is_opened_later() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        let mut log = BoundedFile::create(&path, 20, |_| String::new()).unwrap();
        log.append(b"the first line\n");
        // As if it had been put aside, and then there had been no descriptor for the next.
        std::fs::rename(&path, previous(&path)).unwrap();
        log.append(b"the second line\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the second line\n");
        assert_eq!(std::fs::read_to_string(previous(&path)).unwrap(), "the first line\n");
    }
}
