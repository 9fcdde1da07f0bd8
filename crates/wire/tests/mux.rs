//! Two ends of a link, and what each makes of a peer that does not keep to the rules.

use matchlock_wire::{
    Channel, Event, Exec, ExitKind, Failure, FailureKind, Hello, Kind, Milestone, Mux, Note, Park, Request, Role,
    SessionId, Start, Stdio, TerminalSize, Warm, WireError, limits,
};

/// Any request will do here.
const SMALLEST: Request = Request::PowerOff { grace_ms: 0 };

/// Carry everything that `from` has to say to `to`.
fn carry(from: &mut Mux, to: &mut Mux) -> Vec<Event> {
    let mut events = Vec::new();
    while from.output_len() > 0 {
        let count = from.output().len();
        events.extend(to.receive(from.output()).expect("a peer of ours keeps to the protocol"));
        from.written(count);
    }
    events
}

/// A host and a guest with one open session.
fn pair() -> (Mux, Mux, SessionId) {
    let (mut host, mut guest) = (Mux::new(Role::Host), Mux::new(Role::Guest));
    let id = host.open(&SMALLEST).expect("the first session");
    assert_eq!(carry(&mut host, &mut guest), [Event::Opened(id, SMALLEST)]);
    (host, guest, id)
}

/// A frame as the crate's documentation describes it.
fn frame(kind: Kind, channel: Channel, session: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload");
    let mut bytes = vec![kind as u8, channel as u8, 0, 0];
    bytes.extend(session.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn a_session_from_its_opening_to_its_end() {
    let (mut host, mut guest) = (Mux::new(Role::Host), Mux::new(Role::Guest));
    let hello = Hello { protocol: limits::PROTOCOL };
    guest.hello(&hello).unwrap();
    assert_eq!(carry(&mut guest, &mut host), [Event::Hello(hello)]);

    let request = Request::Exec(Exec {
        argv: vec![b"cat".to_vec(), Vec::new()],
        stdio: Stdio::Terminal(TerminalSize { rows: 24, cols: 80 }),
        create_cwd: true,
        ..Exec::default()
    });
    let id = host.open(&request).unwrap();
    assert_eq!(host.send(id, Channel::Input, b"abc"), 3);
    host.eof(id, Channel::Input);
    let resized = Note::Resize(TerminalSize { rows: 50, cols: 132 });
    host.note(id, &resized).unwrap();
    assert_eq!(
        carry(&mut host, &mut guest),
        [
            Event::Opened(id, request),
            Event::Data(id, Channel::Input, b"abc".to_vec()),
            Event::Eof(id, Channel::Input),
            Event::Note(id, resized),
        ]
    );

    guest.note(id, &Note::Started { pid: 7 }).unwrap();
    assert_eq!(guest.send(id, Channel::Output, b"abc"), 3);
    guest.eof(id, Channel::Output);
    guest.note(id, &Note::Exited(ExitKind::Code(0))).unwrap();
    guest.end(id);
    assert_eq!(
        carry(&mut guest, &mut host),
        [
            Event::Note(id, Note::Started { pid: 7 }),
            Event::Data(id, Channel::Output, b"abc".to_vec()),
            Event::Eof(id, Channel::Output),
            Event::Note(id, Note::Exited(ExitKind::Code(0))),
            Event::Ended(id),
        ]
    );
    assert!(!host.is_open(id) && !guest.is_open(id));
}

#[test]
fn a_sender_stops_at_the_window_and_goes_on_when_granted() {
    let (mut host, mut guest, id) = pair();
    let window = limits::WINDOW as usize;
    let bytes = vec![1; window + 1];
    assert_eq!(guest.send(id, Channel::Output, &bytes), window);
    assert_eq!(guest.send(id, Channel::Output, &bytes), 0);
    assert_eq!(guest.sendable(id, Channel::Error), window, "each channel has a window of its own");
    let sizes: Vec<_> = carry(&mut guest, &mut host)
        .into_iter()
        .map(|event| if let Event::Data(_, Channel::Output, bytes) = event { bytes.len() } else { panic!("{event:?}") })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), window);
    assert!(sizes.iter().all(|size| *size <= limits::MAX_DATA));

    host.grant(id, Channel::Output, limits::GRANT - 1);
    assert_eq!(host.output_len(), 0, "too little to be worth a frame");
    host.grant(id, Channel::Output, 1);
    assert_eq!(carry(&mut host, &mut guest), [Event::Credit(id, Channel::Output, limits::GRANT)]);
    assert_eq!(guest.sendable(id, Channel::Output), limits::GRANT as usize);
}

#[test]
fn granting_more_than_arrived_gives_no_more_than_the_window() {
    let (mut host, mut guest, id) = pair();
    guest.send(id, Channel::Output, &vec![0; limits::GRANT as usize]);
    carry(&mut guest, &mut host);
    host.grant(id, Channel::Output, u32::MAX);
    host.grant(id, Channel::Output, u32::MAX);
    assert_eq!(carry(&mut host, &mut guest), [Event::Credit(id, Channel::Output, limits::GRANT)]);
    assert_eq!(guest.sendable(id, Channel::Output), limits::WINDOW as usize);
}

#[test]
fn a_stopped_channel_takes_nothing_more_and_what_crossed_it_is_dropped() {
    let (mut host, mut guest, id) = pair();
    guest.send(id, Channel::Output, b"on its way");
    host.stop(id, Channel::Output);
    host.stop(id, Channel::Output);
    assert_eq!(carry(&mut guest, &mut host), []);
    assert_eq!(carry(&mut host, &mut guest), [Event::Stopped(id, Channel::Output)]);
    assert_eq!(guest.send(id, Channel::Output, b"more"), 0);
}

#[test]
fn a_cancelled_session_says_nothing_more_to_the_host_but_its_end() {
    let (mut host, mut guest, id) = pair();
    guest.send(id, Channel::Output, b"on its way");
    host.end(id);
    host.end(id);
    assert_eq!(host.send(id, Channel::Input, b"late"), 0);
    host.note(id, &Note::Resize(TerminalSize { rows: 1, cols: 1 })).unwrap();
    assert_eq!(carry(&mut guest, &mut host), []);
    assert_eq!(carry(&mut host, &mut guest), [Event::Ended(id)]);
    guest.note(id, &Note::Exited(ExitKind::Signal(15))).unwrap();
    guest.end(id);
    assert_eq!(carry(&mut guest, &mut host), [Event::Ended(id)]);
}

#[test]
fn what_the_host_sends_to_an_ended_session_is_no_fault() {
    let (mut host, mut guest, id) = pair();
    host.send(id, Channel::Input, b"crossing");
    host.end(id);
    guest.end(id);
    assert_eq!(carry(&mut host, &mut guest), []);
    assert_eq!(carry(&mut guest, &mut host), [Event::Ended(id)]);
}

#[test]
fn sessions_are_limited_and_their_numbers_are_never_used_twice() {
    let (mut host, mut guest) = (Mux::new(Role::Host), Mux::new(Role::Guest));
    let ids: Vec<_> = (0..limits::MAX_SESSIONS).map(|_| host.open(&SMALLEST).unwrap()).collect();
    assert_eq!(host.open(&SMALLEST), Err(WireError::TooManySessions));
    carry(&mut host, &mut guest);
    guest.end(ids[3]);
    carry(&mut guest, &mut host);
    let next = host.open(&SMALLEST).unwrap();
    assert!(!ids.contains(&next));
    carry(&mut host, &mut guest);
    let one_too_many = frame(Kind::Open, Channel::Input, 10_000, &[2]);
    assert_eq!(guest.receive(&one_too_many), Err(WireError::TooManySessions));
}

#[test]
fn messages_over_their_bound_are_refused_and_harm_nothing() {
    let (mut host, mut guest, id) = pair();
    let argv = vec![b"x".repeat(limits::MAX_OPEN)];
    let error = host.open(&Request::Exec(Exec { argv, ..Exec::default() })).unwrap_err();
    assert!(matches!(error, WireError::TooLarge(size) if size > limits::MAX_OPEN), "{error}");
    let message = "x".repeat(limits::MAX_NOTE);
    let failure = Note::Failed(Failure { kind: FailureKind::Internal, message });
    assert!(matches!(guest.note(id, &failure), Err(WireError::TooLarge(_))));
    assert_eq!((host.output_len(), guest.output_len()), (0, 0));
    let next = host.open(&SMALLEST).unwrap();
    assert_eq!(carry(&mut host, &mut guest), [Event::Opened(next, SMALLEST)]);
}

#[test]
fn the_largest_request_arrives() {
    let (mut host, mut guest) = (Mux::new(Role::Host), Mux::new(Role::Guest));
    let argv = vec![b"x".repeat(2 * 1024 * 1024), b"y".repeat(limits::MAX_OPEN - 2 * 1024 * 1024 - 64)];
    let request = Request::Exec(Exec { argv, ..Exec::default() });
    let id = host.open(&request).unwrap();
    let bytes = host.output().to_vec();
    let mut events = Vec::new();
    for chunk in bytes.chunks(4096) {
        events.extend(guest.receive(chunk).unwrap());
    }
    assert!(events == [Event::Opened(id, request)]);
}

#[test]
fn a_guest_that_breaks_the_rules_is_found_out() {
    use {Channel as C, Kind as K};
    let window = limits::WINDOW as usize;
    let flood: Vec<u8> = (0..=window / limits::MAX_DATA)
        .flat_map(|_| frame(K::Data, C::Output, 1, &vec![0; limits::MAX_DATA]))
        .collect();
    let no_message = [0xff; 16];
    for (what, bytes, error) in [
        ("an unknown kind", vec![8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], WireError::Header),
        ("an unknown channel", vec![3, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], WireError::Header),
        ("bits in the unused place", vec![3, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0], WireError::Header),
        ("too long data", vec![3, 1, 0, 0, 1, 0, 0, 0, 1, 0x80, 0, 0], WireError::Header),
        ("a payload where none belongs", frame(K::End, C::Input, 1, b"x"), WireError::Header),
        ("data without bytes", frame(K::Data, C::Output, 1, b""), WireError::Unexpected(K::Data)),
        ("data on the host's channel", frame(K::Data, C::Input, 1, b"x"), WireError::Unexpected(K::Data)),
        ("data of no session", frame(K::Data, C::Output, 2, b"x"), WireError::Unexpected(K::Data)),
        ("the end of no session", frame(K::End, C::Input, 2, b""), WireError::Unexpected(K::End)),
        ("a session of its own", frame(K::Open, C::Input, 2, &[2]), WireError::Unexpected(K::Open)),
        ("more than was granted", flood, WireError::Overrun),
        ("more credit than a window", frame(K::Credit, C::Input, 1, &1u32.to_le_bytes()), WireError::Overrun),
        ("credit for its own channel", frame(K::Credit, C::Output, 1, &[0; 4]), WireError::Unexpected(K::Credit)),
        ("half a credit", frame(K::Credit, C::Input, 1, &[0; 3]), WireError::Message(K::Credit)),
        ("no note", frame(K::Note, C::Input, 1, &no_message), WireError::Message(K::Note)),
        ("a note and more", frame(K::Note, C::Input, 1, &[3, 0]), WireError::Message(K::Note)),
    ] {
        let (mut host, _, _) = pair();
        assert_eq!(host.receive(&bytes), Err(error), "{what}");
    }
}

#[test]
fn a_guest_says_hello_once_and_to_nobody_in_particular() {
    let hello = frame(Kind::Hello, Channel::Input, 0, &[1]);
    let mut host = Mux::new(Role::Host);
    assert_eq!(host.receive(&hello), Ok(vec![Event::Hello(Hello { protocol: 1 })]));
    assert_eq!(host.receive(&hello), Err(WireError::Unexpected(Kind::Hello)));
    assert_eq!(
        Mux::new(Role::Host).receive(&frame(Kind::Hello, Channel::Input, 1, &[1])),
        Err(WireError::Unexpected(Kind::Hello))
    );
    assert_eq!(Mux::new(Role::Guest).receive(&hello), Err(WireError::Unexpected(Kind::Hello)));
}

#[test]
fn a_host_cannot_open_a_number_twice() {
    let (_, mut guest, _) = pair();
    let again = frame(Kind::Open, Channel::Input, 1, &[2]);
    assert_eq!(guest.receive(&again), Err(WireError::Unexpected(Kind::Open)));
    let last = frame(Kind::Open, Channel::Input, u32::MAX, &[2]);
    assert_eq!(guest.receive(&last), Err(WireError::Unexpected(Kind::Open)));
}

#[test]
fn a_guest_is_handed_on_from_host_to_host_and_notices_nothing() {
    let (mut first, mut guest, id) = pair();
    guest.end(id);
    carry(&mut guest, &mut first);
    let mut numbers = vec![id];
    for after in [limits::PARKING_SESSIONS, limits::WARMING_SESSIONS] {
        let mut host = Mux::to_restored(after);
        let hello = frame(Kind::Hello, Channel::Input, 0, &[1]);
        assert_eq!(
            Mux::to_restored(after).receive(&hello),
            Err(WireError::Unexpected(Kind::Hello)),
            "it was said before"
        );
        let id = host.open(&SMALLEST).unwrap();
        assert_eq!(carry(&mut host, &mut guest), [Event::Opened(id, SMALLEST)]);
        guest.note(id, &Note::Done).unwrap();
        guest.end(id);
        assert_eq!(carry(&mut guest, &mut host), [Event::Note(id, Note::Done), Event::Ended(id)]);
        numbers.push(id);
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

#[test]
fn every_message_survives_the_journey() {
    let start = Start {
        clock_ns: u64::MAX,
        entropy: [9; 32],
        hostname: "box".to_owned(),
        network: None,
        authority: None,
        dns_servers: vec!["1.1.1.1".parse().unwrap(), "::1".parse().unwrap()],
        add_hosts: vec![matchlock_wire::HostEntry { host: "db".to_owned(), ip: "10.0.0.1".parse().unwrap() }],
        root: matchlock_wire::RootDisks { lower: 0, upper: 1 },
        disks: vec![matchlock_wire::DiskMount { device: 2, mount: "/data".to_owned(), readonly: true }],
        cpu_quota: Some(150_000),
        privileged: false,
        timings: true,
    };
    let (mut host, mut guest) = (Mux::new(Role::Host), Mux::new(Role::Guest));
    for request in [
        Request::Park(Park { root: start.root.clone(), privileged: true, network: None }),
        Request::Warm(Warm { entropy: [3; 32], root: start.root.clone(), image: true }),
        Request::Start(Box::new(start)),
        Request::PowerOff { grace_ms: 5000 },
    ] {
        let id = host.open(&request).unwrap();
        assert_eq!(carry(&mut host, &mut guest), [Event::Opened(id, request)]);
        for note in [
            Note::Started { pid: u32::MAX },
            Note::Exited(ExitKind::Signal(64)),
            Note::Failed(Failure { kind: FailureKind::NotExecutable, message: "exec: why".to_owned() }),
            Note::Times(vec![Milestone { what: "mounted".to_owned(), after_us: u32::MAX }]),
            Note::Done,
            Note::Resize(TerminalSize { rows: u16::MAX, cols: 0 }),
        ] {
            guest.note(id, &note).unwrap();
            assert_eq!(carry(&mut guest, &mut host), [Event::Note(id, note)]);
        }
    }
}

#[test]
fn an_end_of_a_channel_is_said_once() {
    // Kind, channel, session 1, no payload.
    let frame = |kind: u8, channel: u8| [kind, channel, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    for (kind, channel) in [(5, 1), (5, 2), (6, 0)] {
        let mut host = Mux::new(Role::Host);
        host.open(&SMALLEST).unwrap();
        assert_eq!(host.receive(&frame(kind, channel)).unwrap().len(), 1);
        assert!(host.receive(&frame(kind, channel)).is_err(), "frame kind {kind} on channel {channel}");
    }
    // One that crosses ours is no repetition.
    let mut host = Mux::new(Role::Host);
    let session = host.open(&SMALLEST).unwrap();
    host.stop(session, Channel::Output);
    assert!(host.receive(&frame(5, 1)).is_ok());
}
