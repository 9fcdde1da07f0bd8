//! UDP: a flow for each pair of addresses, with a socket on either side, until it is idle.

use std::{collections::HashMap, io, sync::Arc};

use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

use super::{
    ClientAddr, End, Moved, OrigDst, Protocol, Shared, What, buffer::with_buffer, datagram, limits, packet::Datagrams,
    telling::Telling,
};

type Pair = (ClientAddr, OrigDst);

/// Take datagrams that belong to no flow yet, or whose flow has no socket yet.
pub(super) async fn serve(door: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = vec![0; limits::DATAGRAM];
    let mut flows: HashMap<Pair, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let most = limits::flows();
    loop {
        tokio::select! {
            // First, so that a flow that has ended is not taken for one that goes on.
            biased;
            Some(ended) = tasks.join_next() => if let Ok(pair) = ended {
                flows.remove(&pair);
            },
            received = datagram::receive(&door, &mut buffer) => {
                // One without its addresses is not to be answered.
                let Ok((length, client, destination)) = received else { continue };
                let pair = (client, destination);
                let datagram = buffer[..length].to_vec();
                if let Some(flow) = flows.get(&pair) {
                    // Too many at once are lost, as on any wire.
                    let _ = flow.try_send(datagram);
                    continue;
                }
                if flows.len() == most {
                    continue;
                }
                let (flow, queue) = mpsc::channel(limits::FLOW_QUEUE);
                let _ = flow.try_send(datagram);
                flows.insert(pair, flow);
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    serve_flow(pair, queue, shared).await;
                    pair
                });
            }
        }
    }
}

/// One flow, until it has been idle, and its place in the table until then, too, if it is refused.
async fn serve_flow((client, destination): Pair, mut queue: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    // Datagrams have no end, so every end is one.
    let mut told = Telling::of(Arc::clone(&shared), (client, destination), What::Flow, End::Done);
    if let Err(end) = relay((client, destination), &mut queue, &shared, &mut told).await {
        told.end = end;
    }
    let denied = matches!(told.end, End::Denied(_));
    drop(told);
    while denied && matches!(timeout(limits::FLOW_IDLE, queue.recv()).await, Ok(Some(_))) {}
}

async fn relay(
    (client, destination): Pair,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    shared: &Shared,
    told: &mut Telling,
) -> Result<(), End> {
    told.allowed = Some(shared.decide(Protocol::Udp, destination)?.allowed);
    copy(client, destination, queue, shared, &mut told.moved).await.map_err(|e| End::Failed(e.to_string()))
}

async fn copy(
    client: ClientAddr,
    destination: OrigDst,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    shared: &Shared,
    moved: &mut Moved,
) -> io::Result<()> {
    let outside = datagram::connected(destination.get()).await?;
    let inside = match &shared.datagrams {
        None => {
            Inside::Socket(UdpSocket::from_std(shared.holder.reply_socket(destination.get(), client.get()).await?)?)
        }
        Some(datagrams) => Inside::Datagrams(datagrams, destination, client),
    };
    loop {
        let passed = async {
            tokio::select! {
                Some(datagram) = queue.recv() => {
                    moved.from_guest += outside.send(&datagram).await? as u64;
                    Ok(())
                }
                inside = inside.readable() => {
                    inside.and_then(|inside| pass(inside, |bytes| outside.try_send(bytes), &mut moved.from_guest))
                }
                ready = datagram::readable(&outside) => {
                    ready.and_then(|()| pass(&outside, |bytes| inside.try_send(bytes), &mut moved.to_guest))
                }
            }
        };
        match timeout(limits::FLOW_IDLE, passed).await {
            Ok(outcome) => outcome?,
            Err(_) => return Ok(()),
        }
    }
}

/// The guest's side of a flow.
enum Inside<'a> {
    /// One of its own, which receives, too.
    Socket(UdpSocket),
    /// What sends for all; all that comes in comes by the common door.
    Datagrams(&'a Datagrams, OrigDst, ClientAddr),
}

impl Inside<'_> {
    async fn readable(&self) -> io::Result<&UdpSocket> {
        match self {
            Self::Socket(socket) => datagram::readable(socket).await.map(|()| socket),
            Self::Datagrams(..) => std::future::pending().await,
        }
    }

    fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_send(bytes),
            Self::Datagrams(datagrams, from, to) => datagrams.send(bytes, *from, *to).map(|()| bytes.len()),
        }
    }
}

/// Pass one datagram on, if there is one. It is lost if the other side has no room, as on any wire.
fn pass(from: &UdpSocket, mut send: impl FnMut(&[u8]) -> io::Result<usize>, moved: &mut u64) -> io::Result<()> {
    let passed = with_buffer(|buffer| {
        let length = datagram::try_recv(from, buffer)?;
        send(&buffer[..length])
    });
    match passed {
        Ok(length) => *moved += length as u64,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        Err(e) => return Err(e),
    }
    Ok(())
}
