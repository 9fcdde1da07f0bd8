//! TCP: accepted for the server, dialled from the host, and copied both ways.
//!
//! The guest's kernel sees its connection established before anybody was dialled; what cannot be had is reset, never
//! closed, so that no client takes it for an empty answer.
//!
//! Where only the guest's first bytes tell whether they are to be inspected ([`Way::ByOpening`]), waiting for them before
//! dialling would hang every protocol in which the server speaks first (SSH, SMTP). So the judged address is dialled at
//! once, and who speaks first decides: a server, and the connection is spliced; the guest, and what it says is looked at before
//! a byte of it goes on.

use std::{io, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    ClientAddr, End, Inspection, Moved, OrigDst, Protocol, Shared, Way, What, accept, copy,
    dial::{dial, prepare},
    limits,
    opening::{MAX_OPENING, Opening},
    telling::Telling,
};

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    accept::serve(listener, limits::connections(), |guest| connection(guest, Arc::clone(&shared))).await;
}

async fn connection(guest: TcpStream, shared: Arc<Shared>) {
    // One that is gone already has no addresses, and nobody to tell of.
    let (Ok(destination), Ok(client)) = (OrigDst::of(&guest), guest.peer_addr().map(ClientAddr::new)) else { return };
    let cut = End::Failed("the sandbox ended first".to_owned());
    let mut told = Telling::of(Arc::clone(&shared), (client, destination), What::Connection, cut);
    told.end = match shared.decide(Protocol::Tcp, destination) {
        Ok(grant) => {
            told.allowed = Some(grant.allowed);
            carry(guest, (client, destination), grant.way, &shared, &mut told).await
        }
        Err(end) => {
            reset(&guest);
            drop(guest);
            end
        }
    };
}

async fn carry(
    guest: TcpStream,
    (client, destination): (ClientAddr, OrigDst),
    way: Way,
    shared: &Shared,
    told: &mut Telling,
) -> End {
    let moved = &mut told.moved;
    let outcome = match way {
        Way::Raw => splice(&guest, destination, moved).await.map(|()| None),
        Way::Inspect(names) => Ok(Some((names, Vec::new()))),
        Way::ByOpening(names) => by_opening(&guest, destination, moved).await.map(|opening| Some((names, opening?))),
    };
    match (outcome, &shared.settings.inspector) {
        (Ok(None), _) => End::Done,
        (Ok(Some((names, opening))), Some(inspector)) => {
            let counted = Arc::clone(&told.counted);
            inspector.inspect(Inspection { guest, opening, client, destination, names, counted }).await
        }
        (Ok(Some(_)), None) => {
            reset(&guest);
            End::Failed("nothing here inspects connections".to_owned())
        }
        (Err(e), _) => {
            reset(&guest);
            End::Failed(e.to_string())
        }
    }
}

async fn splice(guest: &TcpStream, destination: OrigDst, moved: &mut Moved) -> io::Result<()> {
    let server = dial(destination.get()).await?;
    copy(guest, &server, moved).await
}

/// Carry it, unless what the guest opens with is to be inspected: that is the answer.
async fn by_opening(guest: &TcpStream, destination: OrigDst, moved: &mut Moved) -> io::Result<Option<Vec<u8>>> {
    let server = dial(destination.get()).await?;
    let mut opening = Vec::new();
    // Silence of both has no limit. Half a word has: what it would have become is for the inspector to see.
    let mut seen = hear(guest, &server, &mut opening).await?;
    if seen == Opening::Unclear {
        let rest = async {
            while seen == Opening::Unclear {
                seen = hear(guest, &server, &mut opening).await?;
            }
            io::Result::Ok(())
        };
        timeout(limits::OPENING_DEADLINE, rest).await.unwrap_or(Ok(()))?;
    }
    if seen != Opening::Other {
        return Ok(Some(opening));
    }
    moved.from_guest += opening.len() as u64;
    copy::write_all(&server, &opening).await?;
    copy(guest, &server, moved).await.map(|()| None)
}

/// Wait until an end speaks, and judge what the guest has said. Once the server has spoken first, it is no TLS and no HTTP.
async fn hear(guest: &TcpStream, server: &TcpStream, opening: &mut Vec<u8>) -> io::Result<Opening> {
    let mut byte = [0];
    loop {
        tokio::select! {
            biased;
            ready = guest.readable() => ready?,
            spoken = server.peek(&mut byte) => return spoken.map(|_| Opening::Other),
        }
        let mut part = [0; 512];
        let room = part.len().min(MAX_OPENING - opening.len());
        match guest.try_read(&mut part[..room]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            read => {
                let read = read?;
                opening.extend(&part[..read]);
                return Ok(Opening::of(opening, read == 0));
            }
        }
    }
}

async fn copy(guest: &TcpStream, server: &TcpStream, moved: &mut Moved) -> io::Result<()> {
    prepare(guest)?;
    copy::both_ways(guest, server, moved).await.inspect_err(|_| reset(server))
}

/// Have the peer see a reset when the stream is dropped. Refused, it sees a close.
fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
