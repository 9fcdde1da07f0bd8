//! The threads in front of the tar parser: one reads and decompresses, one hashes, the caller parses.
//!
//! Both consumers get the same buffers. Whoever lets go of one last hands it back, so that a layer of any size passes
//! through at most [`CHUNKS_IN_FLIGHT`] × 2 + 4 buffers of [`CHUNK_BYTES`].

use std::{
    io::{self, BufRead, BufReader, Cursor, ErrorKind, Read},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use matchlock_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::ConvertError;

/// Size of one buffer.
const CHUNK_BYTES: usize = 256 << 10;
/// Buffers that may wait for one consumer.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Largest zstd window (log2) a layer may ask for: 64 MiB, as other consumers of layers have it.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// What the whole uncompressed stream was.
pub(crate) struct Decoded {
    /// sha256 of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Its length.
    pub(crate) bytes: u64,
}

/// Decompresses `reader` on one thread, hashes on another, and lets `parse` read the tar on the caller's.
///
/// `parse` must read to the end: what it leaves is missing in the digest.
pub(crate) fn decode<T>(
    reader: impl Read + Send,
    parse: impl FnOnce(&mut TarStream) -> Result<T, ConvertError>,
) -> Result<(T, Decoded), ConvertError> {
    let (to_parser, from_decoder) = sync_channel(CHUNKS_IN_FLIGHT);
    let (to_hasher, to_hash) = sync_channel(CHUNKS_IN_FLIGHT);
    let (spare, spares) = channel();
    let spare_of_hasher = spare.clone();
    thread::scope(|scope| {
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("layer-decode")
            .spawn_scoped(scope, move || decompress(reader, &spares, &to_parser, &to_hasher))
            .map_err(ConvertError::Thread)?;
        let hasher = named("layer-sha256")
            .spawn_scoped(scope, move || hash(&to_hash, &spare_of_hasher))
            .map_err(ConvertError::Thread)?;
        let mut stream = TarStream { from_decoder, spare, chunk: Arc::default(), pos: 0 };
        let parsed = parse(&mut stream);
        // The decoder stops at its next buffer when nobody takes it any more.
        drop(stream);
        let decoded = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((parsed?, decoded))
    })
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

fn decompress(
    mut reader: impl Read,
    spares: &Receiver<Chunk>,
    to_parser: &SyncSender<io::Result<Arc<Chunk>>>,
    to_hasher: &SyncSender<Arc<Chunk>>,
) {
    let mut send = || -> io::Result<()> {
        let mut tar = sniff(&mut reader)?;
        loop {
            let mut chunk = spares.try_recv().unwrap_or_default();
            chunk.bytes.resize(CHUNK_BYTES, 0);
            let (filled, end) = fill(&mut tar, &mut chunk.bytes);
            chunk.filled = filled;
            if filled > 0 {
                let chunk = Arc::new(chunk);
                let taken = to_hasher.send(Arc::clone(&chunk)).is_ok() && to_parser.send(Ok(chunk)).is_ok();
                if !taken {
                    return Ok(());
                }
            }
            if let Some(end) = end {
                return end;
            }
        }
    };
    if let Err(error) = send() {
        // A parser that has gone wants no error either.
        let _ = to_parser.send(Err(error));
    }
}

/// Reads until `buffer` is full or the stream has ended, and says how.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Result<()>>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, Some(Ok(()))),
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(Err(error))),
        }
    }
    (filled, None)
}

/// The uncompressed tar within `reader`, by the first bytes: gzip, zstd, or as it is.
fn sniff<'a>(reader: &'a mut impl Read) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let (len, end) = fill(reader, &mut magic);
    end.transpose()?;
    let whole = Cursor::new(magic).take(len as u64).chain(reader);
    Ok(match magic {
        [0x1f, 0x8b, ..] => {
            let input = BufReader::with_capacity(CHUNK_BYTES, whole);
            Box::new(flate2::bufread::MultiGzDecoder::new(input))
        }
        // The second is a frame to be skipped, with which parallel compressors begin.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(CHUNK_BYTES, whole))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

fn hash(chunks: &Receiver<Arc<Chunk>>, spare: &Sender<Chunk>) -> Decoded {
    let mut sha256 = Sha256::new();
    let mut bytes = 0;
    for chunk in chunks {
        sha256.update(&chunk.bytes[..chunk.filled]);
        bytes += chunk.filled as u64;
        hand_back(chunk, spare);
    }
    Decoded { diff_id: Digest::from_bytes(sha256.finalize().into()), bytes }
}

fn hand_back(chunk: Arc<Chunk>, spare: &Sender<Chunk>) {
    if let Some(chunk) = Arc::into_inner(chunk) {
        // The decoder may have ended already; then the buffer is freed here.
        let _ = spare.send(chunk);
    }
}

/// The uncompressed tar as the parser reads it.
pub(crate) struct TarStream {
    from_decoder: Receiver<io::Result<Arc<Chunk>>>,
    spare: Sender<Chunk>,
    chunk: Arc<Chunk>,
    pos: usize,
}

impl BufRead for TarStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.pos == self.chunk.filled {
            hand_back(std::mem::take(&mut self.chunk), &self.spare);
            self.pos = 0;
            // A closed channel is the end of the tar: an error would have come before.
            if let Ok(chunk) = self.from_decoder.recv() {
                self.chunk = chunk?;
            }
        }
        Ok(&self.chunk.bytes[self.pos..self.chunk.filled])
    }

    fn consume(&mut self, amount: usize) {
        self.pos += amount;
    }
}

impl Read for TarStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(out.len());
        out[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
