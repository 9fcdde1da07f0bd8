//! DNS through the gateway, in open mode: messages pass as they are.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use crate::{
    Story, sandbox, udp,
    world::{DEADLINE, DNS, SERVER4, at},
};

pub(crate) const STORIES: &[Story] = &[
    ("dns_is_answered_by_the_hosts_server_whichever_was_asked", any_server),
    ("dns_asks_the_next_server_when_one_does_not_answer", next_server),
    ("dns_says_so_when_no_server_answers", no_server),
];

/// Where queries are sent in vain: the gateway takes them.
const NOBODY4: &str = "198.51.100.53";
const NOBODY6: &str = "2001:db8::53";

/// A query for the addresses of example.com.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";

/// A server that answers every query with itself, marked as an answer, and how it came.
fn server(address: SocketAddr) {
    let answer = |query: &[u8], how: &[u8]| {
        let mut answer = [query, how].concat();
        answer[2] |= 0x80;
        answer
    };
    let socket = UdpSocket::bind(address).unwrap();
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            // One that somebody made up comes first, and is passed over.
            let mut forged = answer(&buffer[..length], b"forged");
            forged[0] ^= 1;
            socket.send_to(&forged, client).unwrap();
            socket.send_to(&answer(&buffer[..length], b"udp"), client).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let query = read_message(&mut stream);
            write_message(&mut stream, &answer(&query, b"tcp"));
        }
    });
}

fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).unwrap();
    message
}

fn write_message(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
}

/// What a server answers.
fn answer_by(how: &[u8]) -> Vec<u8> {
    let mut answer = [QUERY, how].concat();
    answer[2] |= 0x80;
    answer
}

/// In the guest.
fn ask(whom: &str) -> Vec<u8> {
    let socket = udp::socket(whom);
    socket.send_to(QUERY, at(whom, 53)).unwrap();
    let mut answer = [0; 4096];
    let (length, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, at(whom, 53));
    answer[..length].to_vec()
}

fn any_server() {
    server(at(DNS, 53));
    let sandbox = sandbox::open();
    for whom in [NOBODY4, NOBODY6, "192.168.100.1", "fd6d:6174:6368::1"] {
        assert_eq!(sandbox.guest.run(|| ask(whom)), answer_by(b"udp"));
        assert_eq!(sandbox.event(), format!("Query(Udp, None) {} done", at(whom, 53)));
        sandbox.guest.run(|| {
            let mut stream = TcpStream::connect_timeout(&at(whom, 53), DEADLINE).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            for _ in 0..2 {
                write_message(&mut stream, QUERY);
                assert_eq!(read_message(&mut stream), answer_by(b"tcp"));
            }
        });
        let told = format!("Query(Tcp, None) {} done", at(whom, 53));
        assert_eq!([sandbox.event(), sandbox.event()], [told.clone(), told]);
    }
}

fn next_server() {
    // Nobody listens at the first, and nobody answers at the second.
    let _silent = UdpSocket::bind(at("127.0.0.2", 53)).unwrap();
    server(at(DNS, 53));
    let servers = sandbox::servers(&[SERVER4, "127.0.0.2", DNS]);
    let sandbox = sandbox::start(sandbox::plan(), sandbox::everything(), servers);
    assert_eq!(sandbox.guest.run(|| ask(NOBODY4)), answer_by(b"udp"));
}

fn no_server() {
    let sandbox = sandbox::open();
    let answer = sandbox.guest.run(|| ask(NOBODY4));
    // The query with the bit of an answer, and the code of a server's failure.
    let mut expected = QUERY.to_vec();
    (expected[2], expected[3]) = (0x81, 2);
    assert_eq!(answer, expected);
    assert_eq!(
        sandbox.event(),
        format!("Query(Udp, None) {NOBODY4}:53 failed: {DNS}:53: Connection refused (os error 111)")
    );
}
