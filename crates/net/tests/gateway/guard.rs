//! A policy at work: names, the addresses that they lead to, and what is refused.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket},
    sync::{Arc, mpsc},
    thread,
};

use matchlock_net::{
    gateway::{Forwarder, Servers},
    guard::{Guard, own_addresses},
    policy::{Mode, Policy},
    rules::Rules,
};

use crate::{
    Story, sandbox,
    tcp::reset,
    udp,
    world::{DEADLINE, DNS, SERVER4, SILENCE, at, ip, tcp_echo_after_end},
};

pub(crate) const STORIES: &[Story] = &[
    ("guard_a_name_leads_to_its_port_until_it_is_taken_away", by_name),
    ("guard_a_name_that_is_not_allowed_leaves_the_host_nowhere", refused_name),
    ("guard_an_open_network_has_neither_metadata_nor_the_host", open_network),
];

/// A server that gives every name these addresses, and tells of each question.
fn server(addresses: &'static [Ipv4Addr]) -> mpsc::Receiver<()> {
    let (asked, questions) = mpsc::channel();
    let socket = UdpSocket::bind(at(DNS, 53)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            // The question without its OPT record, which is its last 11 bytes.
            let mut answer = buffer[..length - 11].to_vec();
            answer[2] |= 0x80;
            answer[7] = u8::try_from(addresses.len()).unwrap();
            answer[11] = 0;
            for address in addresses {
                answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04");
                answer.extend(address.octets());
            }
            let _ = asked.send(());
            socket.send_to(&answer, client).unwrap();
        }
    });
    questions
}

/// In the guest: the answer's code, and how many addresses there are in it.
fn ask(name: &str) -> (u8, u8) {
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend(b"\0\0\x01\0\x01");
    let socket = udp::socket(SERVER4);
    socket.send_to(&query, at("198.51.100.53", 53)).unwrap();
    let mut answer = [0; 512];
    socket.recv(&mut answer).unwrap();
    (answer[3] & 0x0f, answer[7])
}

fn exchange(port: u16) -> Result<Vec<u8>, ErrorKind> {
    let outcome = || {
        let mut stream = TcpStream::connect_timeout(&at(SERVER4, port), DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"hello")?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).map(|_| back)
    };
    outcome().map_err(|e: std::io::Error| e.kind())
}

fn guarded(policy: Policy) -> (Guard, sandbox::Sandbox) {
    let guard = Guard::new(policy, Rules::default(), Forwarder { servers: Servers::These(vec![at(DNS, 53)]) });
    let decide = guard.clone();
    let decide = Arc::new(move |protocol, destination| decide.decide(protocol, destination));
    let sandbox = sandbox::start(sandbox::plan(), decide, Arc::new(guard.clone()));
    (guard, sandbox)
}

fn intercepted(allowed: &str) -> Policy {
    Policy { mode: Mode::Intercept, allowed: vec![allowed.parse().unwrap()], ..Policy::default() }
}

fn by_name() {
    let private = Ipv4Addr::new(10, 0, 0, 5);
    let public: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
    let _questions = server(Box::leak(Box::new([private, public])));
    let (guard, sandbox) = guarded(intercepted("db.x.com:5432"));
    for port in [5432, 5433] {
        tcp_echo_after_end(at(SERVER4, port));
    }
    let refused = ErrorKind::ConnectionReset;
    assert_eq!(sandbox.guest.run(|| reset(SERVER4, 5432)), refused, "not asked for yet");
    assert_eq!(sandbox.guest.run(|| ask("db.x.com")), (0, 1), "the private address is dropped");
    assert_eq!(sandbox.guest.run(|| exchange(5432)), Ok(b"hello".to_vec()));
    assert_eq!(sandbox.guest.run(|| reset(SERVER4, 5433)), refused, "another port");
    guard.delete(["db.x.com:5432".parse().unwrap()]).unwrap();
    assert_eq!(sandbox.guest.run(|| reset(SERVER4, 5432)), refused, "an empty list");
    assert_eq!(sandbox.guest.run(|| ask("db.x.com")), (3, 0));
}

fn refused_name() {
    let questions = server(&[]);
    let (_, sandbox) = guarded(intercepted("db.x.com:5432"));
    assert_eq!(sandbox.guest.run(|| ask("secret.evil.com")), (3, 0));
    let event = sandbox.event();
    assert!(
        event.ends_with("evil.com: host not in allowlist (--allow-host secret.evil.com would allow it)"),
        "{event}"
    );
    assert!(questions.recv_timeout(SILENCE).is_err());
}

fn open_network() {
    let own = own_addresses().unwrap();
    // The cloud, and so not among them.
    ip("addr add 169.254.169.254 dev lo\n");
    tcp_echo_after_end(at("169.254.169.254", 80));
    tcp_echo_after_end(at(SERVER4, 80));
    assert!(own.contains(&at(SERVER4, 0).ip()), "{own:?}");
    let (_, sandbox) = guarded(Policy { mode: Mode::Open, own_addresses: own, ..Policy::default() });
    assert_eq!(sandbox.guest.run(|| reset(SERVER4, 80)), ErrorKind::ConnectionReset);
    assert!(sandbox.event().contains("is the host itself"));
    assert_eq!(sandbox.guest.run(|| reset("169.254.169.254", 80)), ErrorKind::ConnectionReset);
    assert!(sandbox.event().contains("is a cloud metadata address"));
}
