//! Requests over HTTP/1.1, heads and bodies, one after the other: those that reach the server are for the allowed host, framed
//! plainly, and no more than the interceptor has counted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matchlock_fuzz::Intercepted;

thread_local!(static INTERCEPTED: Intercepted = Intercepted::start());

fuzz_target!(|data: &[u8]| {
    // TLS is another target's.
    if data.first().is_some_and(u8::is_ascii) {
        INTERCEPTED.with(|intercepted| intercepted.carry(data));
    }
});
