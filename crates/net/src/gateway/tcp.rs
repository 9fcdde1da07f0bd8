//! TCP: accepted for the server, dialled from the host, and copied both ways.
//!
//! The guest's kernel sees its connection established before anybody was dialled; what cannot be had is reset, never
//! closed, so that no client takes it for an empty answer.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{ClientAddr, End, Moved, OrigDst, Protocol, Shared, What, accept, copy, limits};

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    accept::serve(listener, limits::CONNECTIONS, |guest| connection(guest, Arc::clone(&shared))).await;
}

async fn connection(guest: TcpStream, shared: Arc<Shared>) {
    let began = Instant::now();
    // One that is gone already has no addresses, and nobody to tell of.
    let (Ok(destination), Ok(client)) = (OrigDst::of(&guest), guest.peer_addr().map(ClientAddr::new)) else { return };
    let mut moved = Moved::default();
    let end = match carry(&guest, destination, &shared, &mut moved).await {
        Ok(()) => End::Done,
        Err(end) => {
            reset(&guest);
            end
        }
    };
    drop(guest);
    shared.tell(client, destination, What::Connection(moved), end, began);
}

async fn carry(guest: &TcpStream, destination: OrigDst, shared: &Shared, moved: &mut Moved) -> Result<(), End> {
    shared.decide(Protocol::Tcp, destination)?;
    let failed = |e: io::Error| End::Failed(e.to_string());
    let server = dial(destination.get()).await.map_err(failed)?;
    for end in [guest, &server] {
        prepare(end).map_err(failed)?;
    }
    copy::both_ways(guest, &server, moved).await.map_err(|e| {
        reset(&server);
        failed(e)
    })
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(limits::DIAL_DEADLINE, TcpStream::connect(address)).await?
}

/// What is copied is sent as it comes, and an end that has silently gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, limits::PROBE_AFTER)?;
    Ok(())
}

/// Have the peer see a reset when the stream is dropped. Refused, it sees a close.
fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
