//! TLS that is left alone (`--tls-passthrough`): its server name has been judged, the rest is between its ends.

use std::io;

use tokio::net::TcpStream;

use super::{
    hello::within,
    limits,
    server::prepare,
    stream::{Counted, GuestStream},
};
use crate::gateway::{Moved, OrigDst, copy};

/// Carry it, the hello included, until both ends have closed.
pub(super) async fn splice(guest: GuestStream, destination: OrigDst, counted: &Counted) -> io::Result<()> {
    let (guest, hello) = guest.into_parts();
    let server = within(limits::DIAL_DEADLINE, TcpStream::connect(destination.get())).await?;
    prepare(&server)?;
    copy::write_all(&server, &hello).await?;
    let mut moved = Moved::default();
    let outcome = copy::both_ways(&guest, &server, &mut moved).await;
    counted.add(moved);
    outcome
}
