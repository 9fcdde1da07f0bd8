//! The first message of a guest's TLS, whole or in pieces of records: it gets an alert or a handshake, and the server is
//! connected to for the allowed name only.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matchlock_fuzz::Intercepted;

thread_local!(static INTERCEPTED: Intercepted = Intercepted::start());

fuzz_target!(|data: &[u8]| {
    // Whatever comes: what is no TLS is taken for HTTP.
    INTERCEPTED.with(|intercepted| intercepted.carry(data));
});
