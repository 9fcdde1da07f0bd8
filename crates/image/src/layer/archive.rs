//! The tar format: headers and extensions in, [`Entry`]s and their data out.
//!
//! Read as Go's `archive/tar` does, since that is what made most layers: types without data have none whatever their
//! size says, a NUL type with a trailing slash is a directory, global PAX headers say nothing about single entries.

use std::{borrow::Cow, io::BufRead};

use tar::Header;

use super::{
    entry::{Entry, EntryKind, number, unsigned},
    pax::Pax,
    sparse::{MapLines, Segment, SparseMap},
};
use crate::{
    ConvertError, EntryProblem,
    convert::{Quota, printable},
};

/// Size of a tar block.
const BLOCK: u64 = 512;
/// Largest PAX or GNU extension that is read into memory.
const MAX_EXTENSION: u64 = 1 << 20;

/// A tar read front to back. Its bytes, padding included, count to the quota as they are consumed.
pub(crate) struct Archive<'a, R> {
    input: R,
    unpacked: &'a mut Quota,
    offset: u64,
    /// Data of the current entry that nobody has read yet.
    data_left: u64,
    padding: u64,
    current: Vec<u8>,
}

/// What the extension headers before an entry said.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(crate) fn new(input: R, unpacked: &'a mut Quota) -> Self {
        Self { input, unpacked, offset: 0, data_left: 0, padding: 0, current: Vec::new() }
    }

    /// The next entry, past whatever is left of the one before; `None` at the end of the archive.
    ///
    /// An archive that ends between entries without its two blocks of zeros is taken, as Go takes it; the digest of
    /// the layer tells whether something is missing.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ConvertError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.read_header()? else { return Ok(None) };
            self.current = header.path_bytes().into_owned();
            let size = unsigned(&header.as_old().size, "size").map_err(|problem| self.problem(problem))?;
            match header.as_old().linkflag[0] {
                b'x' => {
                    let records = self.read_extension(size)?;
                    extensions.pax = Pax::parse(&records).map_err(|problem| self.problem(problem))?;
                }
                b'g' => drop(self.read_extension(size)?),
                b'L' => extensions.long_name = Some(until_nul(self.read_extension(size)?)),
                b'K' => extensions.long_link = Some(until_nul(self.read_extension(size)?)),
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    /// Hands the current entry's data, or the next `len` bytes of it, to `sink`.
    pub(crate) fn read_data(
        &mut self,
        mut len: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        debug_assert!(len <= self.data_left);
        while len > 0 {
            let available = self.input.fill_buf().map_err(ConvertError::Read)?;
            let n = available.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            if n == 0 {
                return Err(self.truncated());
            }
            sink(&available[..n])?;
            self.consume(n)?;
            len -= n as u64;
            self.data_left -= n as u64;
        }
        Ok(())
    }

    /// Reads what follows the end of the archive, so that it counts to the digest and the limit.
    pub(crate) fn drain(&mut self) -> Result<(), ConvertError> {
        loop {
            let n = self.input.fill_buf().map_err(ConvertError::Read)?.len();
            if n == 0 {
                return Ok(());
            }
            self.consume(n)?;
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: u8,
        header_size: u64,
        extensions: Extensions,
    ) -> Result<Entry, ConvertError> {
        let Extensions { mut pax, long_name, long_link } = extensions;
        let link = long_link
            .or(pax.link.take())
            .unwrap_or_else(|| header.link_name_bytes().map_or_else(Vec::new, Cow::into_owned));
        let path = long_name
            .or(pax.sparse.name.take())
            .or(pax.path.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        self.current.clone_from(&path);
        let stored = pax.size.unwrap_or(header_size);
        let kind = match kind {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => self.file(header, kind, stored, &pax)?,
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' | b'4' => {
                let (major, minor) = device(header).map_err(|problem| self.problem(problem))?;
                if kind == b'3' { EntryKind::CharDevice(major, minor) } else { EntryKind::BlockDevice(major, minor) }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(self.problem(EntryProblem::Type(char::from(other)))),
        };
        Entry::new(header, path, kind, pax).map_err(|problem| self.problem(problem))
    }

    /// A file's size and map; leaves the input at the first byte of its data.
    fn file(&mut self, header: &Header, kind: u8, stored: u64, pax: &Pax) -> Result<EntryKind, ConvertError> {
        if kind == b'S' {
            let (map, size) = self.old_sparse_map(header)?;
            self.expect_data(stored)?;
            return self.sparse_file(map, size, stored);
        }
        self.expect_data(stored)?;
        let Some(size) = pax.sparse.real_size else { return Ok(EntryKind::File { size: stored, segments: None }) };
        let map = if pax.sparse.major == Some(1) {
            self.sparse_map_in_data()?
        } else {
            SparseMap::from_pairs(&pax.sparse.map).map_err(|problem| self.problem(problem))?
        };
        let carried = self.data_left;
        self.sparse_file(map, size, carried)
    }

    fn sparse_file(&mut self, map: SparseMap, size: u64, stored: u64) -> Result<EntryKind, ConvertError> {
        let segments = map.finish(size, stored).map_err(|problem| self.problem(problem))?;
        self.unpacked.charge(size - stored)?;
        Ok(EntryKind::File { size, segments: Some(segments) })
    }

    /// GNU's format before PAX: four segments in the header, then blocks of 21 as long as a flag says so.
    fn old_sparse_map(&mut self, header: &Header) -> Result<(SparseMap, u64), ConvertError> {
        let mut map = SparseMap::default();
        let mut add = |offset: &[u8], len: &[u8]| {
            // An empty field ends the list.
            if offset[0] == 0 || len[0] == 0 {
                return Ok(());
            }
            map.push(unsigned(offset, "sparse map")?, unsigned(len, "sparse map")?)
        };
        let gnu = header.as_gnu().ok_or_else(|| self.problem(EntryProblem::SparseMap))?;
        for segment in &gnu.sparse {
            add(&segment.offset, &segment.numbytes).map_err(|problem| self.problem(problem))?;
        }
        let size = unsigned(&gnu.realsize, "size").map_err(|problem| self.problem(problem))?;
        let mut more = gnu.isextended[0] != 0;
        while more {
            let block = self.read_block()?.ok_or_else(|| self.truncated())?;
            for segment in block[..21 * 24].chunks_exact(24) {
                add(&segment[..12], &segment[12..]).map_err(|problem| self.problem(problem))?;
            }
            more = block[21 * 24] != 0;
        }
        Ok((map, size))
    }

    /// PAX version 1.0: the map is the first blocks of the data.
    fn sparse_map_in_data(&mut self) -> Result<SparseMap, ConvertError> {
        let mut lines = MapLines::default();
        loop {
            if self.data_left < BLOCK {
                return Err(self.problem(EntryProblem::SparseMap));
            }
            let block = self.read_block()?.ok_or_else(|| self.truncated())?;
            self.data_left -= BLOCK;
            if lines.feed(&block).map_err(|problem| self.problem(problem))? {
                return Ok(lines.into_map());
            }
        }
    }

    fn read_header(&mut self) -> Result<Option<Header>, ConvertError> {
        let offset = self.offset;
        self.current.clear();
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        // The checksum is taken with its own field as spaces; some old writers summed signed bytes.
        let bytes = || block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
        let sum: i64 = bytes().map(i64::from).sum();
        let signed_sum: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        match number(&header.as_old().cksum) {
            Some(stated) if stated == sum || stated == signed_sum => Ok(Some(header)),
            _ => Err(ConvertError::Header { offset, reason: "wrong checksum" }),
        }
    }

    /// The data of an extension header, bounded.
    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, ConvertError> {
        if size > MAX_EXTENSION {
            return Err(self.problem(EntryProblem::ExtensionTooLarge(MAX_EXTENSION)));
        }
        self.expect_data(size)?;
        let mut data = Vec::new();
        self.read_data(size, |bytes| {
            data.extend_from_slice(bytes);
            Ok(())
        })?;
        self.skip_data()?;
        Ok(data)
    }

    /// Notes that `size` bytes of data follow. A size beyond the quota is refused before a byte of it is read.
    fn expect_data(&mut self, size: u64) -> Result<(), ConvertError> {
        self.unpacked.check(size)?;
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), ConvertError> {
        self.data_left += self.padding;
        self.padding = 0;
        self.read_data(self.data_left, |_| Ok(()))
    }

    /// The next 512 bytes; `None` at the end of the input.
    fn read_block(&mut self) -> Result<Option<[u8; 512]>, ConvertError> {
        let mut block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            let available = self.input.fill_buf().map_err(ConvertError::Read)?;
            let n = available.len().min(block.len() - filled);
            if n == 0 {
                return if filled == 0 { Ok(None) } else { Err(self.truncated()) };
            }
            block[filled..filled + n].copy_from_slice(&available[..n]);
            self.consume(n)?;
            filled += n;
        }
        Ok(Some(block))
    }

    fn consume(&mut self, n: usize) -> Result<(), ConvertError> {
        self.input.consume(n);
        self.offset += n as u64;
        self.unpacked.charge(n as u64)
    }

    fn truncated(&self) -> ConvertError {
        let place = match self.current.as_slice() {
            [] => format!("at byte {}", self.offset),
            name => format!("within \"{}\"", printable(name)),
        };
        ConvertError::Truncated { place }
    }

    fn problem(&self, problem: EntryProblem) -> ConvertError {
        problem.of(&self.current)
    }
}

fn device(header: &Header) -> Result<(u64, u64), EntryProblem> {
    // The fields are at the same place in both formats that have them.
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Err(EntryProblem::Field("device number")),
    };
    Ok((unsigned(major, "device number")?, unsigned(minor, "device number")?))
}

/// A GNU long name: text up to its terminating NUL.
fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

impl Segment {
    /// The one segment of a file without holes.
    pub(crate) fn whole(size: u64) -> Self {
        Self { offset: 0, len: size }
    }
}
