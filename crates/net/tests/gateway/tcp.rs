//! TCP through the gateway.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use matchlock_net::namespace::{Addressing, Plan};

use crate::{
    Story, sandbox,
    world::{DEADLINE, DNS, SERVER4, SERVER6, SILENCE, at, tcp_echo_after_end},
};

pub(crate) const STORIES: &[Story] = &[
    ("tcp_content_goes_both_ways_and_each_half_closes_by_itself", content),
    ("tcp_is_reset_when_nobody_listens", refused),
    ("tcp_is_reset_when_it_is_denied_and_nobody_hears_of_it", denied),
    ("tcp_of_either_end_that_breaks_off_breaks_off_the_other", broken),
    ("tcp_waits_for_a_slow_reader", slow_reader),
    ("tcp_goes_on_after_urgent_data", urgent),
    ("tcp_fits_through_every_mtu", mtu),
    ("tcp_over_ipv6_is_refused_at_once_where_the_host_has_none", without_ipv6),
    ("tcp_connections_end_with_the_gateway", gateway_ends),
];

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

/// Send all, close the half, and read what comes back.
fn exchange(server: &str, port: u16, content: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&at(server, port), DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(content).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    back
}

fn content() {
    let sandbox = sandbox::open();
    for server in [SERVER4, SERVER6] {
        tcp_echo_after_end(at(server, 443));
        for length in [0, 1, 5_000_000] {
            let content = pattern(length);
            assert!(sandbox.guest.run(|| exchange(server, 443, &content)) == content, "{server} {length}");
            let told =
                format!("Connection(Moved {{ from_guest: {length}, to_guest: {length} }}) {} done", at(server, 443));
            assert_eq!(sandbox.event(), told);
        }
    }
}

/// A connection that is established by the guest's kernel, and then reset.
pub(crate) fn reset(server: &str, port: u16) -> ErrorKind {
    let outcome = TcpStream::connect_timeout(&at(server, port), DEADLINE).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.read(&mut [0])
    });
    outcome.map(|_| "bytes or a clean close").unwrap_err().kind()
}

fn refused() {
    let sandbox = sandbox::open();
    for server in [SERVER4, SERVER6] {
        assert_eq!(sandbox.guest.run(|| reset(server, 81)), ErrorKind::ConnectionReset);
        let event = sandbox.event();
        assert!(event.contains(&format!("{} failed: Connection refused", at(server, 81))), "{event}");
    }
}

fn denied() {
    let sandbox = sandbox::without(SERVER4);
    let listener = TcpListener::bind(at(SERVER4, 80)).unwrap();
    assert_eq!(sandbox.guest.run(|| reset(SERVER4, 80)), ErrorKind::ConnectionReset);
    let nothing = "Connection(Moved { from_guest: 0, to_guest: 0 })";
    assert_eq!(sandbox.event(), format!("{nothing} {SERVER4}:80 denied: {SERVER4}: {SERVER4} is a multicast address"));
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // Another one is allowed.
    tcp_echo_after_end(at(SERVER6, 80));
    assert_eq!(sandbox.guest.run(|| exchange(SERVER6, 80, b"x")), b"x");
}

fn broken() {
    let sandbox = sandbox::open();
    let listener = TcpListener::bind(at(SERVER4, 80)).unwrap();
    let connect = || {
        let guest = sandbox.guest.run(|| TcpStream::connect(at(SERVER4, 80)).unwrap());
        let (server, _) = listener.accept().unwrap();
        for end in [&guest, &server] {
            end.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        (guest, server)
    };
    let abort = |end: TcpStream| {
        rustix::net::sockopt::set_socket_linger(&end, Some(std::time::Duration::ZERO)).unwrap();
        drop(end);
    };
    let (mut guest, server) = connect();
    abort(server);
    assert_eq!(guest.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (guest, mut server) = connect();
    abort(guest);
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn slow_reader() {
    let sandbox = sandbox::open();
    let content = pattern(20_000_000);
    let listener = TcpListener::bind(at(SERVER4, 80)).unwrap();
    let sent = content.clone();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(&sent).unwrap());
    let mut guest = sandbox.guest.run(|| TcpStream::connect(at(SERVER4, 80)).unwrap());
    guest.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut received = vec![0; 1000];
    guest.read_exact(&mut received).unwrap();
    // Nobody has room for all of it.
    let idle = sandbox.within(SILENCE);
    assert!(idle.is_err() && !server.is_finished(), "{idle:?}");
    guest.read_to_end(&mut received).unwrap();
    assert!(received == content, "{} bytes", received.len());
    server.join().unwrap();
}

/// In the midst of much that is carried at once, and just before the end. The urgent byte itself is not carried.
fn urgent() {
    let sandbox = sandbox::open();
    let content = pattern(10_000_000);
    let listener = TcpListener::bind(at(SERVER4, 80)).unwrap();
    for after in [content.len() / 2, 1] {
        let received = thread::scope(|scope| {
            let _server = scope.spawn(|| {
                let mut stream = listener.accept().unwrap().0;
                let (before, after) = content.split_at(content.len() - after);
                stream.write_all(before).unwrap();
                rustix::net::send(&stream, b"!", rustix::net::SendFlags::OOB).unwrap();
                stream.write_all(after).unwrap();
            });
            sandbox.guest.run(|| {
                let mut stream = TcpStream::connect(at(SERVER4, 80)).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                received
            })
        });
        assert!(received == content, "{} bytes, with {after} after it", received.len());
    }
}

fn mtu() {
    tcp_echo_after_end(at(SERVER4, 80));
    for mtu in [576, 1200, 9000] {
        let plan = Plan { addressing: Addressing { mtu, ..Addressing::default() }, ..sandbox::plan() };
        let sandbox = sandbox::start(plan, sandbox::everything(), sandbox::servers(&[DNS]));
        let content = pattern(200_000);
        assert!(sandbox.guest.run(|| exchange(SERVER4, 80, &content)) == content, "{mtu}");
        assert_eq!(plan.addressing.carries_ipv6(), mtu == 9000);
    }
}

fn without_ipv6() {
    let plan = Plan { ipv6: false, ..sandbox::plan() };
    let sandbox = sandbox::start(plan, sandbox::everything(), sandbox::servers(&[DNS]));
    tcp_echo_after_end(at(SERVER6, 80));
    tcp_echo_after_end(at(SERVER4, 80));
    let outcome = sandbox.guest.run(|| TcpStream::connect_timeout(&at(SERVER6, 80), DEADLINE));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(sandbox.guest.run(|| exchange(SERVER4, 80, b"x")), b"x");
}

fn gateway_ends() {
    let mut sandbox = sandbox::open();
    let listener = TcpListener::bind(at(SERVER4, 80)).unwrap();
    let mut guest = sandbox.guest.run(|| TcpStream::connect(at(SERVER4, 80)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    guest.write_all(b"hello").unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    sandbox.stop();
    for end in [&mut guest, &mut server] {
        end.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
    let told = "Connection(Moved { from_guest: 5, to_guest: 0 })";
    assert_eq!(sandbox.event(), format!("{told} {SERVER4}:80 failed: the sandbox ended first"));
}
