//! The DNS server that a guest finds at port 53 of every address.

use std::{sync::Arc, time::Instant};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{
    Answer, ClientAddr, End, OrigDst, Shared, Transport, What, accept, datagram,
    forward::{Query, read_message, write_message},
    limits,
};

pub(super) async fn serve_udp(door: UdpSocket, shared: Arc<Shared>) {
    let door = Arc::new(door);
    let mut buffer = vec![0; limits::DATAGRAM];
    let mut queries = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = queries.join_next() => {}
            received = datagram::receive(&door, &mut buffer), if queries.len() < limits::QUERIES => {
                // One without its addresses is not to be answered.
                let Ok((length, client, destination)) = received else { continue };
                let query = Query { message: buffer[..length].to_vec(), transport: Transport::Udp, client };
                let (door, shared) = (Arc::clone(&door), Arc::clone(&shared));
                queries.spawn(async move {
                    let Some(answer) = answer(&query, destination, &shared).await else { return };
                    // One that is too long, or for a guest that is gone, is lost.
                    let _ = match &shared.datagrams {
                        Some(datagrams) => datagrams.send(&answer, destination, client),
                        None => datagram::send(&door, &answer, destination, client).await,
                    };
                });
            }
        }
    }
}

pub(super) async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    accept::serve(listener, limits::DNS_CONNECTIONS, |guest| connection(guest, Arc::clone(&shared))).await;
}

/// One query after the other, until the guest closes, breaks the protocol or is idle.
async fn connection(mut guest: TcpStream, shared: Arc<Shared>) {
    let (Ok(destination), Ok(client)) = (OrigDst::of(&guest), guest.peer_addr().map(ClientAddr::new)) else { return };
    while let Ok(Ok(Some(message))) = timeout(limits::DNS_IDLE, read_message(&mut guest)).await {
        let query = Query { message, transport: Transport::Tcp, client };
        let Some(answer) = answer(&query, destination, &shared).await else { return };
        let written = timeout(limits::DNS_IDLE, write_message(&mut guest, &answer)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// The message for the guest, if it is to be given one.
async fn answer(query: &Query, destination: OrigDst, shared: &Shared) -> Option<Vec<u8>> {
    let began = Instant::now();
    let resolved = shared.settings.resolver.resolve(query).await;
    let Answer { message, question, allowed, end } = resolved.unwrap_or_else(|e| {
        Some(Answer {
            message: server_failure(&query.message),
            question: None,
            allowed: None,
            end: End::Failed(e.to_string()),
        })
    })?;
    shared.tell((query.client, destination), What::Query(query.transport, question), allowed, end, began);
    Some(message)
}

/// The query, made an answer that has nothing but the code `SERVFAIL` (RFC 1035, section 4.1.1).
fn server_failure(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    if let [_, _, flags, code, ..] = answer.as_mut_slice() {
        *flags |= 0x80;
        *code = *code & 0xf0 | 2;
    }
    answer
}
