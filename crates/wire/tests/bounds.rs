//! What a peer can make this side allocate. A program of its own, because it watches the allocator.

#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use matchlock_wire::{Mux, Request, Role, limits};

/// Any request will do here.
const SMALLEST: Request = Request::PowerOff { grace_ms: 0 };

static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The largest single allocation while `act` runs.
fn largest(act: impl FnOnce()) -> usize {
    LARGEST.store(0, Ordering::Relaxed);
    act();
    LARGEST.load(Ordering::Relaxed)
}

// One test, so that nothing else allocates meanwhile.
#[test]
fn a_length_that_was_only_announced_allocates_nothing() {
    for role in [Role::Host, Role::Guest] {
        for kind in 0..=255 {
            for len in [1, 4, 256, 16 << 10, 32 << 10, 4 << 20, (4 << 20) + 1, 1 << 31, u32::MAX] {
                let mut mux = Mux::new(role);
                let _ = mux.open(&SMALLEST);
                let mut header = vec![kind, 1, 0, 0, 1, 0, 0, 0];
                header.extend(len.to_le_bytes());
                let size = largest(|| drop(mux.receive(&header)));
                assert!(size < 1024, "{role:?}: kind {kind}, length {len}: {size} bytes");
            }
        }
    }

    // Lists inside a message announce their lengths too: here a note's text of 2^60 bytes.
    let mut mux = Mux::new(Role::Host);
    let _ = mux.open(&SMALLEST);
    let note = [&[2, 0, 0, 0, 1, 0, 0, 0, 11, 0, 0, 0, 2, 0][..], &[0x80; 8], &[0x10]].concat();
    let size = largest(|| assert!(mux.receive(&note).is_err()));
    assert!(size < 1024, "{size} bytes for a note");

    // A stream of full frames is kept no longer than it takes to interpret it.
    let mut mux = Mux::new(Role::Host);
    let _ = mux.open(&SMALLEST);
    let mut data = vec![3, 1, 0, 0, 1, 0, 0, 0];
    data.extend(u32::try_from(limits::MAX_DATA).unwrap().to_le_bytes());
    data.extend(vec![0; limits::MAX_DATA]);
    let size = largest(|| while mux.receive(&data).is_ok() {});
    assert!(size <= 4 * limits::MAX_DATA, "{size} bytes for a stream of data");
}
