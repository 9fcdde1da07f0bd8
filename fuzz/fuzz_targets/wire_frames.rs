//! Any bytes, in any pieces, into either end of the link: no panic, and no event after an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matchlock_wire::{Mux, Request, Role};

/// Any request will do here.
const SMALLEST: Request = Request::PowerOff { grace_ms: 0 };

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (host, chunks) = input;
    let mut mux = Mux::new(if host { Role::Host } else { Role::Guest });
    if host {
        let _ = (mux.open(&SMALLEST), mux.open(&SMALLEST));
    }
    for chunk in chunks {
        if mux.receive(&chunk).is_err() {
            break;
        }
    }
});
