//! The buffer through which all bytes of a thread's connections pass, one after the other.

use std::cell::RefCell;

/// Read at once. What a slow reader leaves over of it is a connection's largest allocation, once for each direction.
const LENGTH: usize = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LENGTH]);
}

/// Use it. Whoever does keeps nothing in it, and does not wait.
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| work(buffer))
}
