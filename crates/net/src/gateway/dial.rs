//! Connections to servers.

use std::{io, net::SocketAddr};

use rustix::net::sockopt;
use tokio::{net::TcpStream, time::timeout};

use super::limits;

/// Connect to the address that was judged.
pub(crate) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let deadline = limits::DIAL_DEADLINE;
    let connected = timeout(deadline, TcpStream::connect(address)).await.unwrap_or_else(|_| {
        let why = format!("nothing for {} s", deadline.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })?;
    prepare(&connected)?;
    Ok(connected)
}

/// What is written to an end is sent as it comes, and an end that has silently gone is noticed.
pub(crate) fn prepare(end: &TcpStream) -> io::Result<()> {
    end.set_nodelay(true)?;
    sockopt::set_socket_keepalive(end, true)?;
    sockopt::set_tcp_keepidle(end, limits::PROBE_AFTER)?;
    Ok(())
}
