//! A link whose other side is played by the test: greetings, dialogues, and peers that break the rules.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream as Peer,
};

use matchlock_wire::Exec;

use super::*;

/// Any request will do here.
const SMALLEST: Request = Request::PowerOff { grace_ms: 0 };

/// A link whose other side is played by the test.
async fn greeted() -> (Link, Peer, Mux) {
    let (ours, mut peer) = Peer::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut guest = Mux::new(Role::Guest);
    guest.hello(&Hello { protocol: PROTOCOL }).unwrap();
    say(&mut guest, &mut peer);
    (Link::to_guest(UnixStream::from_std(ours).unwrap()).await.unwrap(), peer, guest)
}

fn say(guest: &mut Mux, peer: &mut Peer) {
    while guest.output_len() > 0 {
        let count = peer.write(guest.output()).unwrap();
        guest.written(count);
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_is_nobodys_breach_and_costs_nothing() {
    let (link, _peer, _guest) = greeted().await;
    let large = Exec { cwd: "x".repeat(limits::MAX_OPEN + 1), ..Exec::default() };
    let refused = link.open(Request::Exec(large)).await.unwrap_err();
    assert!(matches!(refused, LinkError::Refused(WireError::TooLarge(_))), "{refused:?}");
    let mut sessions = Vec::new();
    for _ in 0..limits::MAX_SESSIONS {
        sessions.push(link.open(SMALLEST).await.unwrap());
    }
    let refused = link.open(SMALLEST).await.unwrap_err();
    assert!(matches!(refused, LinkError::Refused(WireError::TooManySessions)), "{refused:?}");
}

#[tokio::test]
async fn what_the_other_side_said_before_it_went_is_heard() {
    // Whether the driver reads or writes first is chance.
    for _ in 0..50 {
        let (link, mut peer, mut guest) = greeted().await;
        let mut session = link.open(SMALLEST).await.unwrap();
        let mut bytes = [0; 1024];
        let count = peer.read(&mut bytes).unwrap();
        let [Event::Opened(id, SMALLEST)] = guest.receive(&bytes[..count]).unwrap()[..] else { panic!() };
        guest.note(id, &Note::Done).unwrap();
        say(&mut guest, &mut peer);
        drop(peer);
        session.eof(Channel::Input);
        assert!(matches!(session.next().await, Some(Event::Note(_, Note::Done))));
        assert!(session.next().await.is_none());
    }
}
