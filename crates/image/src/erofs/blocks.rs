//! Appends to the image file in large writes, on a thread of its own, and leaves blocks of zeros out.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread::JoinHandle,
};

use super::{BLOCK, BLOCK_BYTES, metadata::FIRST_FREE_BLOCK};
use crate::ConvertError;

/// Size of one write.
const BATCH_BYTES: usize = 1 << 20;
/// Batches that may wait to be written.
const BATCHES_IN_FLIGHT: usize = 4;

/// The image file, written front to back behind the blocks that are the root's.
pub(crate) struct BlockWriter {
    batch: Batch,
    to_thread: Option<SyncSender<Batch>>,
    spares: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<File>>>,
}

/// Bytes that belong at `offset`, which is at a block boundary.
struct Batch {
    offset: u64,
    bytes: Vec<u8>,
}

impl BlockWriter {
    pub(crate) fn new(file: File) -> Result<Self, ConvertError> {
        let (to_thread, batches) = sync_channel(BATCHES_IN_FLIGHT);
        let (spare, spares) = channel();
        let thread = std::thread::Builder::new()
            .name("image-write".to_owned())
            .spawn(move || write_batches(file, &batches, &spare))
            .map_err(ConvertError::Thread)?;
        Ok(Self {
            batch: Batch { offset: FIRST_FREE_BLOCK * BLOCK, bytes: Vec::with_capacity(BATCH_BYTES) },
            to_thread: Some(to_thread),
            spares,
            thread: Some(thread),
        })
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.batch.offset + self.batch.bytes.len() as u64
    }

    /// The number of the next block, after a call of [`align`](Self::align).
    pub(crate) fn block(&self) -> Result<u32, ConvertError> {
        // The kernel's block numbers are 32 bits wide: 16 TiB.
        u32::try_from(self.position() / BLOCK)
            .map_err(|_| ConvertError::Limit { what: "blocks of 4 KiB", limit: u32::MAX.into() })
    }

    pub(crate) fn append(&mut self, mut bytes: &[u8]) -> Result<(), ConvertError> {
        while !bytes.is_empty() {
            let room = BATCH_BYTES - self.batch.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.batch.bytes.extend_from_slice(now);
            if self.batch.bytes.len() == BATCH_BYTES {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Leaves `len` bytes of zeros.
    pub(crate) fn skip(&mut self, len: u64) -> Result<(), ConvertError> {
        let end = self.position() + len;
        if end - self.batch.offset > BATCH_BYTES as u64 {
            // Up to the boundary within the batch, then a jump to the last boundary before the end.
            self.align()?;
            self.flush()?;
            self.batch.offset = self.batch.offset.max(end / BLOCK * BLOCK);
        }
        // Less than a batch is left either way.
        let zeros = usize::try_from(end - self.batch.offset).unwrap_or(BATCH_BYTES);
        self.batch.bytes.resize(zeros, 0);
        Ok(())
    }

    /// Fills up with zeros to the next block boundary.
    pub(crate) fn align(&mut self) -> Result<(), ConvertError> {
        let aligned = self.batch.bytes.len().next_multiple_of(BLOCK_BYTES);
        self.batch.bytes.resize(aligned, 0);
        if aligned == BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is left and returns the file, at its full length.
    pub(crate) fn finish(mut self) -> Result<File, ConvertError> {
        self.align()?;
        self.flush()?;
        let file = self.join().map_err(ConvertError::Write)?;
        file.set_len(self.batch.offset).map_err(ConvertError::Write)?;
        Ok(file)
    }

    fn flush(&mut self) -> Result<(), ConvertError> {
        let bytes = self.spares.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH_BYTES));
        let next = Batch { offset: self.position(), bytes };
        let full = std::mem::replace(&mut self.batch, next);
        let sent = self.to_thread.as_ref().is_some_and(|thread| thread.send(full).is_ok());
        if sent {
            return Ok(());
        }
        // The thread ends early only when a write failed.
        let gone = || io::Error::other("the writing thread is gone");
        Err(ConvertError::Write(self.join().err().unwrap_or_else(gone)))
    }

    fn join(&mut self) -> io::Result<File> {
        self.to_thread = None;
        let thread = self.thread.take().ok_or_else(|| io::Error::other("the writing thread is gone"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        self.to_thread = None;
        if let Some(thread) = self.thread.take() {
            // Whoever drops an unfinished image has another error to report.
            let _ = thread.join();
        }
    }
}

fn write_batches(file: File, batches: &Receiver<Batch>, spare: &Sender<Vec<u8>>) -> io::Result<File> {
    for Batch { offset, mut bytes } in batches {
        write_without_zeros(&file, offset, &bytes)?;
        bytes.clear();
        // The writer may have finished already; then the buffer is freed here.
        let _ = spare.send(bytes);
    }
    Ok(file)
}

/// Writes the runs of blocks that are not all zeros.
fn write_without_zeros(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let is_hole = |at: usize| bytes[at..bytes.len().min(at + BLOCK_BYTES)].iter().all(|&byte| byte == 0);
    let mut start = 0;
    while start < bytes.len() {
        if is_hole(start) {
            start += BLOCK_BYTES;
            continue;
        }
        let mut end = start + BLOCK_BYTES;
        while end < bytes.len() && !is_hole(end) {
            end += BLOCK_BYTES;
        }
        file.write_all_at(&bytes[start..bytes.len().min(end)], offset + start as u64)?;
        start = end;
    }
    Ok(())
}
