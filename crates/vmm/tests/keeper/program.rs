//! What `matchlock` does with the hidden verb, and nothing else.

use std::{env, io};

use matchlock_vmm::{KEEPER_VERB, keep};

fn main() -> io::Result<()> {
    let mut words = env::args_os().skip(1);
    match words.next() {
        Some(verb) if verb == KEEPER_VERB => keep(words),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
