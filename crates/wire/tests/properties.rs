//! What holds for every conversation and every stream of bytes.

use std::collections::BTreeMap;

use matchlock_wire::{Channel, Event, ExitKind, Mux, Note, Request, Role, SessionId, TerminalSize, limits};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Any request will do here.
const SMALLEST: Request = Request::PowerOff { grace_ms: 0 };

/// Something that one side does.
#[derive(Clone, Debug)]
enum Act {
    Open,
    Send(Index, Channel, usize),
    Eof(Index, Channel),
    Stop(Index, Channel),
    Note(Index),
    End(Index),
    /// Deliver at most this many bytes to the host, and to the guest.
    Carry(usize, usize),
}

fn act() -> impl Strategy<Value = Act> {
    let channel = prop_oneof![Just(Channel::Input), Just(Channel::Output), Just(Channel::Error)];
    let at = || any::<Index>();
    prop_oneof![
        2 => Just(Act::Open),
        9 => (at(), channel.clone(), 0..100_000usize).prop_map(|(id, channel, len)| Act::Send(id, channel, len)),
        1 => (at(), channel.clone()).prop_map(|(id, channel)| Act::Eof(id, channel)),
        1 => (at(), channel).prop_map(|(id, channel)| Act::Stop(id, channel)),
        2 => at().prop_map(Act::Note),
        1 => at().prop_map(Act::End),
        9 => (0..100_000usize, 0..100_000usize).prop_map(|(host, guest)| Act::Carry(host, guest)),
    ]
}

/// Both ends, with what was sent and received on each channel.
struct World {
    host: Mux,
    guest: Mux,
    ids: Vec<SessionId>,
    sent: BTreeMap<(SessionId, Channel), u64>,
    received: BTreeMap<(SessionId, Channel), u64>,
    /// How many messages the guest has sent.
    notes: BTreeMap<SessionId, u8>,
    /// What the host has said so far.
    said: Vec<u8>,
}

impl World {
    fn new() -> Self {
        Self {
            host: Mux::new(Role::Host),
            guest: Mux::new(Role::Guest),
            ids: Vec::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            notes: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Open => self.ids.extend(self.host.open(&SMALLEST)),
            Act::Carry(to_host, to_guest) => {
                self.carry(Role::Guest, *to_host);
                self.carry(Role::Host, *to_guest);
            }
            _ if self.ids.is_empty() => {}
            Act::Send(id, channel, len) => {
                let id = *id.get(&self.ids);
                let from = self.sent.entry((id, *channel)).or_default();
                let bytes: Vec<u8> = (*from..).take(*len).map(byte_at).collect();
                let sender = if *channel == Channel::Input { &mut self.host } else { &mut self.guest };
                *from += sender.send(id, *channel, &bytes) as u64;
            }
            Act::Eof(id, channel) => match channel {
                Channel::Input => self.host.eof(*id.get(&self.ids), *channel),
                _ => self.guest.eof(*id.get(&self.ids), *channel),
            },
            Act::Stop(id, channel) => match channel {
                Channel::Input => self.guest.stop(*id.get(&self.ids), *channel),
                _ => self.host.stop(*id.get(&self.ids), *channel),
            },
            Act::Note(id) => {
                let resized = Note::Resize(TerminalSize { rows: 24, cols: 80 });
                let id = *id.get(&self.ids);
                self.host.note(id, &resized).expect("a small note");
                // More than that a guest has no reason to send.
                let sent = self.notes.entry(id).or_default();
                if *sent < limits::MAX_GUEST_NOTES {
                    *sent += 1;
                    self.guest.note(id, &Note::Exited(ExitKind::Code(0))).expect("a small note");
                }
            }
            Act::End(id) => self.host.end(*id.get(&self.ids)),
        }
    }

    fn carry(&mut self, from: Role, limit: usize) {
        let (from, to, by_host) = match from {
            Role::Host => (&mut self.host, &mut self.guest, true),
            Role::Guest => (&mut self.guest, &mut self.host, false),
        };
        let bytes = &from.output()[..limit.min(from.output().len())];
        if by_host {
            self.said.extend(bytes);
        }
        let events = to.receive(bytes).expect("well-behaved ends never find fault with each other");
        let count = bytes.len();
        from.written(count);
        for event in events {
            match event {
                Event::Data(id, channel, bytes) => {
                    let at = self.received.entry((id, channel)).or_default();
                    assert!(bytes.iter().copied().eq((*at..).take(bytes.len()).map(byte_at)), "in order and unharmed");
                    *at += bytes.len() as u64;
                    to.grant(id, channel, u32::try_from(bytes.len()).expect("a small frame"));
                }
                Event::Ended(id) if by_host => to.end(id),
                _ => {}
            }
        }
    }

    fn check(&self) {
        for (key, sent) in &self.sent {
            let received = self.received.get(key).copied().unwrap_or_default();
            assert!(received <= *sent);
            // Data that crosses a `Stop` or an end is never received, so the bound is on what was ever allowed.
            assert!(*sent <= received + 2 * u64::from(limits::WINDOW));
        }
    }
}

/// Every position of a channel has its byte.
fn byte_at(position: u64) -> u8 {
    (position ^ (position >> 8) ^ (position >> 16)).to_le_bytes()[0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn two_ends_never_disagree(acts in vec(act(), 0..120)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
            world.check();
        }
    }

    #[test]
    fn any_split_of_the_stream_gives_the_same_events(acts in vec(act(), 0..60), cuts in vec(any::<Index>(), 0..40)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.act(&Act::Carry(0, usize::MAX));
        let bytes = world.said;

        // A guest that never ends a session, so that both hear the same whatever the timing.
        let whole = Mux::new(Role::Guest).receive(&bytes);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut guest = Mux::new(Role::Guest);
        let parts: Result<Vec<_>, _> = cuts.windows(2).map(|cut| guest.receive(&bytes[cut[0]..cut[1]])).collect();
        prop_assert_eq!(whole, parts.map(|events| events.concat()));
    }

    #[test]
    fn no_bytes_are_too_strange(chunks in vec(vec(any::<u8>(), 0..200), 0..20), host: bool) {
        let mut mux = Mux::new(if host { Role::Host } else { Role::Guest });
        let _ = mux.open(&SMALLEST);
        for chunk in chunks {
            if mux.receive(&chunk).is_err() {
                break;
            }
        }
    }

    #[test]
    fn no_frame_is_too_strange(
        frames in vec((0..9u8, 0..4u8, 0..4u32, vec(any::<u8>(), 0..64)), 0..40), host: bool,
    ) {
        let mut mux = Mux::new(if host { Role::Host } else { Role::Guest });
        if host {
            let _ = (mux.open(&SMALLEST), mux.open(&SMALLEST));
        }
        for (kind, channel, session, payload) in frames {
            let mut bytes = vec![kind, channel, 0, 0];
            bytes.extend(session.to_le_bytes());
            bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
            bytes.extend(payload);
            if mux.receive(&bytes).is_err() {
                break;
            }
        }
    }
}
