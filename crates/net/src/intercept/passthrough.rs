//! TLS that is left alone (`--tls-passthrough`): its server name has been judged, the rest is between its ends.

use std::io;

use super::stream::GuestStream;
use crate::gateway::{Counted, Moved, OrigDst, copy, dial::dial};

/// Carry it, the hello included, until both ends have closed.
pub(super) async fn splice(guest: GuestStream, destination: OrigDst, counted: &Counted) -> io::Result<()> {
    let (guest, hello) = guest.into_parts();
    let server = dial(destination.get()).await?;
    copy::write_all(&server, &hello).await?;
    let mut adding = Adding { moved: Moved::default(), counted };
    copy::both_ways(&guest, &server, &mut adding.moved).await
}

/// What was carried counts, also if it is cut short.
struct Adding<'a> {
    moved: Moved,
    counted: &'a Counted,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.counted.add(self.moved);
    }
}
