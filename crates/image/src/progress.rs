//! What a pull or an import tells whoever draws progress. The library itself prints nothing.

use matchlock_model::Digest;

/// One step of a pull or an import. Sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The registry has answered: so many layers, so many bytes compressed.
    Resolved {
        /// Layers of the image.
        layers: usize,
        /// Their compressed sizes together.
        bytes: u64,
    },
    /// Another process is making the same image; its result will be used.
    Waiting,
    /// A compressed layer was already here.
    LayerCached {
        /// The compressed layer.
        layer: Digest,
        /// Its size.
        bytes: u64,
    },
    /// So much of a layer has arrived.
    Downloading {
        /// The compressed layer.
        layer: Digest,
        /// Bytes here so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A transfer broke off and is taken up again.
    Retrying {
        /// The compressed layer.
        layer: Digest,
    },
    /// So much of an archive has been read from the input.
    Reading {
        /// Bytes so far.
        done: u64,
    },
    /// Layer `number` of `count` is being written into the image.
    Unpacking {
        /// Counted from 1, base first.
        number: usize,
        /// Layers in all.
        count: usize,
    },
    /// All layers are in; the image is being written out to the disk.
    Finishing,
}

/// Whoever wants to know. Called from several threads, often; must not block.
pub trait Progress: Send + Sync {
    /// Take notice of `event`.
    fn event(&self, event: Event);
}

/// Nobody wants to know.
impl Progress for () {
    fn event(&self, _event: Event) {}
}
