//! Frames of HTTP/2 after the preface that both ends know: requests that reach the server are for the allowed host, and no
//! more than the interceptor has counted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matchlock_fuzz::Intercepted;

thread_local!(static INTERCEPTED: Intercepted = Intercepted::start());

/// The preface, and settings that change nothing.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|data: &[u8]| {
    INTERCEPTED.with(|intercepted| intercepted.carry(&[OPENING, data].concat()));
});
