//! The members of an archive by name, their data kept in one anonymous file, or left where it is if the input is
//! itself a file.
//!
//! The anonymous file has no name, so that nothing is left of it however the process ends.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use crate::{
    ConvertError,
    convert::{Limits, Quota},
    import::ArchiveError,
    layer::{Archive as Tar, EntryKind},
    progress::{Event, Progress},
};

/// Most members of one archive; an image of 127 layers has about 400.
const MAX_MEMBERS: usize = 10_000;
/// Longest member name.
const MAX_NAME: usize = 1024;
/// Most links followed for one member.
const MAX_LINKS: usize = 8;
/// The buffer in front of the tar reader.
const READ_BUFFER: usize = 1 << 20;
/// Largest zstd window (log2) of a compressed archive: 128 MiB, what `zstd -19 --long` makes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// An archive that was read to its end.
#[derive(Debug)]
pub(crate) struct Archive {
    members: BTreeMap<String, Member>,
    data: Arc<File>,
}

#[derive(Debug)]
enum Member {
    File {
        offset: u64,
        length: u64,
    },
    /// The name, in the archive, that it stands for.
    Link(String),
}

/// The data of one member, read on demand.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    data: Arc<File>,
    position: u64,
    end: u64,
}

/// Counts what is consumed, so that a member's place in the input is known.
struct Counted<'a, R> {
    inner: R,
    position: &'a Cell<u64>,
}

impl Archive {
    /// Read an archive, plain or compressed with gzip or zstd, keeping its data in an anonymous file in `spool`.
    pub(crate) fn read(
        mut input: impl Read,
        spool: &Path,
        limits: &Limits,
        progress: &dyn Progress,
    ) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Spool { path: spool.to_owned(), source };
        let mut data = tempfile::tempfile_in(spool).map_err(failed)?;
        let mut magic = Vec::new();
        input.by_ref().take(6).read_to_end(&mut magic).map_err(ArchiveError::Read)?;
        let input = decompressed(&magic, magic.as_slice().chain(input))?;
        let mut kept = 0;
        let keep = |bytes: &[u8], _| {
            kept += bytes.len() as u64;
            data.write_all(bytes).map(|()| kept)
        };
        let members = scan(input, limits, progress, Some(keep)).map_err(|error| match error {
            ArchiveError::Tar(ConvertError::Write(source)) => failed(source),
            other => other,
        })?;
        Ok(Self { members, data: Arc::new(data) })
    }

    /// Read an archive from a file of the user's. Its data stays where it is, unless it is compressed.
    pub(crate) fn read_file(
        mut file: File,
        spool: &Path,
        limits: &Limits,
        progress: &dyn Progress,
    ) -> Result<Self, ArchiveError> {
        let start = file.stream_position();
        let (Ok(start), true) = (start, file.metadata().is_ok_and(|metadata| metadata.is_file())) else {
            return Self::read(file, spool, limits, progress);
        };
        let mut magic = [0; 6];
        let length = file.read_at(&mut magic, start).map_err(ArchiveError::Read)?;
        if Compression::of(&magic[..length]).is_some() {
            return Self::read(file, spool, limits, progress);
        }
        let input = BufReader::with_capacity(READ_BUFFER, &file);
        let mut members = scan(input, limits, progress, None::<fn(&[u8], u64) -> io::Result<u64>>)?;
        for member in members.values_mut() {
            if let Member::File { offset, .. } = member {
                *offset += start;
            }
        }
        // Leave the descriptor at the end, as a reader would.
        file.seek(SeekFrom::End(0)).map_err(ArchiveError::Read)?;
        Ok(Self { members, data: Arc::new(file) })
    }

    /// Whether there is a member of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The data of the member `name`, links followed.
    pub(crate) fn open(&self, name: &str) -> Result<Span, ArchiveError> {
        let mut resolved = clean(name.as_bytes())?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&resolved) {
                None => return Err(ArchiveError::Missing(name.to_owned())),
                Some(Member::Link(target)) => resolved.clone_from(target),
                Some(&Member::File { offset, length }) => {
                    return Ok(Span { data: Arc::clone(&self.data), position: offset, end: offset + length });
                }
            }
        }
        Err(ArchiveError::LinkLoop(name.to_owned()))
    }

    /// All data of a small member.
    pub(crate) fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut span = self.open(name)?;
        if span.length() > limit {
            return Err(ArchiveError::TooLarge { name: name.to_owned(), found: span.length(), limit });
        }
        let mut bytes = Vec::new();
        span.read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }
}

impl Span {
    pub(crate) const fn length(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Span {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.length()).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.data.read_at(&mut buffer[..length], self.position)?;
        if read == 0 && length > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive shrank while it was read"));
        }
        self.position += read as u64;
        Ok(read)
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.position.set(self.position.get() + read as u64);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.position.set(self.position.get() + amount as u64);
    }
}

/// Note all members, handing the data of files to `keep`, which returns how much it has kept so far. Without it, the
/// data's place in the input is noted.
fn scan(
    input: impl BufRead,
    limits: &Limits,
    progress: &dyn Progress,
    mut keep: Option<impl FnMut(&[u8], u64) -> io::Result<u64>>,
) -> Result<BTreeMap<String, Member>, ArchiveError> {
    let position = Cell::new(0);
    let mut quota = Quota::new("bytes in the archive", limits.unpacked_bytes);
    let mut tar = Tar::new(Counted { inner: input, position: &position }, &mut quota);
    let (mut members, mut seen, mut kept) = (BTreeMap::new(), 0, 0);
    while let Some(entry) = tar.next_entry()? {
        seen += 1;
        if seen > MAX_MEMBERS {
            return Err(ArchiveError::TooManyMembers(MAX_MEMBERS));
        }
        let name = clean(&entry.path)?;
        let member = match entry.kind {
            EntryKind::Directory => continue,
            EntryKind::Symlink(target) => Member::Link(beside(&name, &target)?),
            EntryKind::HardLink(target) => Member::Link(clean(&target)?),
            EntryKind::File { size, segments: None } => {
                let offset = if keep.is_some() { kept } else { position.get() };
                tar.read_data(size, |bytes| {
                    if let Some(keep) = &mut keep {
                        kept = keep(bytes, kept).map_err(ConvertError::Write)?;
                    }
                    progress.event(Event::Reading { done: position.get() });
                    Ok(())
                })?;
                Member::File { offset, length: size }
            }
            _ => return Err(ArchiveError::UnsafeKind(name)),
        };
        // Unpacking would let the last one win, too.
        members.insert(name, member);
    }
    // Let the producer at the other end of a pipe finish writing its padding.
    tar.drain()?;
    if position.get() == 0 { Err(ArchiveError::Empty) } else { Ok(members) }
}

/// A member's name without `.` and doubled slashes; one that leads out of the archive is refused.
fn clean(name: &[u8]) -> Result<String, ArchiveError> {
    let refuse = || ArchiveError::UnsafeName(String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned());
    let text = std::str::from_utf8(name).map_err(|_| refuse())?;
    if text.len() > MAX_NAME || text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(refuse());
    }
    Ok(text.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/"))
}

/// What the target of the symbolic link `name` is called in the archive.
fn beside(name: &str, target: &[u8]) -> Result<String, ArchiveError> {
    let refuse = || ArchiveError::UnsafeName(name.to_owned());
    let target = std::str::from_utf8(target).map_err(|_| refuse())?;
    if target.len() > MAX_NAME || target.starts_with('/') {
        return Err(refuse());
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(refuse)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[derive(Clone, Copy)]
enum Compression {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    fn of(magic: &[u8]) -> Option<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Self::Xz),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            _ => None,
        }
    }
}

fn decompressed<'a>(magic: &[u8], whole: impl Read + 'a) -> Result<Box<dyn BufRead + 'a>, ArchiveError> {
    Ok(match Compression::of(magic) {
        None => Box::new(BufReader::with_capacity(READ_BUFFER, whole)),
        Some(Compression::Gzip) => {
            let whole = BufReader::with_capacity(READ_BUFFER, whole);
            Box::new(BufReader::with_capacity(READ_BUFFER, flate2::bufread::MultiGzDecoder::new(whole)))
        }
        Some(Compression::Zstd) => {
            let whole = BufReader::with_capacity(READ_BUFFER, whole);
            let mut decoder = zstd::Decoder::with_buffer(whole).map_err(ArchiveError::Read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(ArchiveError::Read)?;
            Box::new(BufReader::with_capacity(READ_BUFFER, decoder))
        }
        Some(Compression::Xz) => return Err(ArchiveError::NotATar("it is compressed with xz; pipe it through xz -d")),
        Some(Compression::Bzip2) => {
            return Err(ArchiveError::NotATar("it is compressed with bzip2; pipe it through bzip2 -d"));
        }
    })
}
