//! TLS that is left alone (`--tls-passthrough`): its server name has been judged, the rest is between its ends.

use std::io;

use tokio::{io::copy_bidirectional, net::TcpStream};

use super::{hello::within, limits, server::prepare, stream::GuestStream};
use crate::gateway::OrigDst;

/// Carry it, the hello included, until both ends have closed.
pub(super) async fn splice(mut guest: GuestStream, destination: OrigDst) -> io::Result<()> {
    let mut server = within(limits::DIAL_DEADLINE, TcpStream::connect(destination.get())).await?;
    prepare(&server)?;
    copy_bidirectional(&mut guest, &mut server).await?;
    Ok(())
}
