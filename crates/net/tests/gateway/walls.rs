//! What a guest cannot do.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use matchlock_net::namespace::{Addressing, Plan};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sendto, socket};

use crate::{
    Story, sandbox, udp,
    world::{DEADLINE, DNS, SERVER4, SILENCE, at, ip},
};

pub(crate) const STORIES: &[Story] = &[
    ("walls_the_gateway_itself_has_no_open_port_but_dns", gateway_ports),
    ("walls_addresses_of_the_link_and_of_many_are_not_carried", addresses),
    ("walls_other_protocols_are_not_carried", protocols),
    ("walls_a_false_source_is_not_heard", spoofed),
    ("walls_another_sandbox_cannot_be_reached", neighbours),
];

fn gateway_ports() {
    // The host happens to have the gateway's address, too, and a server on it.
    ip("addr add 192.168.100.1/32 dev lo\n");
    let listener = TcpListener::bind(at("192.168.100.1", 80)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let sandbox = sandbox::open();
    for gateway in ["192.168.100.1", "fd6d:6174:6368::1"] {
        for port in [1, 22, 80, 7000, 7001, 65535] {
            let outcome = sandbox.guest.run(|| TcpStream::connect_timeout(&at(gateway, port), DEADLINE));
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{gateway} {port}");
        }
        let outcome = sandbox.guest.run(|| {
            let socket = udp::socket(gateway);
            socket.connect(at(gateway, 7000)).unwrap();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0])
        });
        assert_ne!(outcome.unwrap_err().kind(), ErrorKind::WouldBlock, "an answer, and at once");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(sandbox.within(SILENCE).is_err());
    // The gateway's own door is a port as every other at a server's address.
    let server = TcpListener::bind(at(SERVER4, 7000)).unwrap();
    let mut guest = sandbox.guest.run(|| TcpStream::connect(at(SERVER4, 7000)).unwrap());
    server.accept().unwrap().0.write_all(b"hi").unwrap();
    let mut said = String::new();
    guest.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hi");
}

fn addresses() {
    let sandbox = sandbox::open();
    sandbox.guest.run(|| {
        // Sent to the gateway's link address, whatever the guest's kernel thinks of such destinations.
        ip("route add 224.0.0.0/3 via 192.168.100.1\nroute add 0.1.0.0/16 via 192.168.100.1\n");
        let socket = udp::socket("0.0.0.0");
        socket.set_broadcast(true).unwrap();
        for whom in ["192.168.100.3", "255.255.255.255", "224.0.0.251", "240.0.0.1", "0.1.2.3"] {
            // A kernel may refuse by itself, which is as good.
            let _ = socket.send_to(b"x", at(whom, 5353));
        }
        let socket = udp::socket("::");
        for whom in ["fd6d:6174:6368::3", "fe80::1", "ff02::fb", "ff0e::1"] {
            let _ = socket.send_to(b"x", SocketAddr::V6(SocketAddrV6::new(whom.parse().unwrap(), 5353, 0, 2)));
        }
    });
    let carried = sandbox.within(SILENCE);
    assert!(carried.is_err(), "{carried:?}");
}

/// In the guest: send an IPv4 packet of a protocol, with the kernel's header.
pub(crate) fn send_raw(protocol: i32, payload: &[u8]) {
    let raw = rustix::net::RawProtocol::new(protocol.unsigned_abs()).unwrap();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::RAW,
        Some(rustix::net::Protocol::from_raw(raw)),
    );
    let to = SockaddrStorage::from(at(SERVER4, 0));
    sendto(socket.unwrap().as_raw_fd(), payload, &to, MsgFlags::empty()).unwrap();
}

fn protocols() {
    let sandbox = sandbox::open();
    let seen = rustix::net::RawProtocol::new(47).unwrap();
    let host = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::RAW,
        rustix::net::SocketFlags::NONBLOCK,
        Some(rustix::net::Protocol::from_raw(seen)),
    )
    .unwrap();
    // GRE, ESP, SCTP, and ICMP that is no echo request.
    for protocol in [47, 50, 132] {
        sandbox.guest.run(|| send_raw(protocol, &[0; 64]));
    }
    sandbox.guest.run(|| send_raw(1, &[13, 0, 0xf2, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let carried = sandbox.within(SILENCE);
    assert!(carried.is_err(), "{carried:?}");
    assert_eq!(rustix::net::recv(&host, &mut [0; 100], rustix::net::RecvFlags::empty()), Err(rustix::io::Errno::AGAIN));
}

fn spoofed() {
    let sandbox = sandbox::open();
    sandbox.guest.run(|| {
        for false_source in [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(192, 168, 100, 1), Ipv4Addr::LOCALHOST] {
            let socket =
                socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), nix::sys::socket::SockProtocol::Raw);
            let mut packet = vec![0; 28];
            // An IPv4 header of five words for UDP, whose length and sum the kernel fills in; then UDP's, without a sum.
            (packet[0], packet[8], packet[9]) = (0x45, 64, 17);
            packet[12..16].copy_from_slice(&false_source.octets());
            packet[16..20].copy_from_slice(&SERVER4.parse::<Ipv4Addr>().unwrap().octets());
            packet[20..].copy_from_slice(&[0x10, 0, 0x10, 0, 0, 8, 0, 0]);
            let to = SockaddrStorage::from(at(SERVER4, 0));
            sendto(socket.unwrap().as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
        }
    });
    let carried = sandbox.within(SILENCE);
    assert!(carried.is_err(), "{carried:?}");
    // The same from the right one is carried, to nobody.
    sandbox.guest.run(|| udp::socket(SERVER4).send_to(b"", at(SERVER4, 4096)).unwrap());
    assert!(sandbox.event().contains(&format!("{SERVER4}:4096 failed: Connection refused")));
}

fn neighbours() {
    let other = Addressing {
        gateway4: Ipv4Addr::new(192, 168, 101, 1),
        guest4: Ipv4Addr::new(192, 168, 101, 2),
        ..Addressing::default()
    };
    let allow = sandbox::everything;
    let neighbour = sandbox::start(Plan { addressing: other, ..sandbox::plan() }, allow(), sandbox::servers(&[DNS]));
    let sandbox = sandbox::open();
    let server = neighbour.guest.run(|| TcpListener::bind(at("0.0.0.0", 80)).unwrap());
    server.set_nonblocking(true).unwrap();
    for address in [other.gateway4, other.guest4] {
        let outcome = sandbox.guest.run(|| {
            let mut stream = TcpStream::connect_timeout(&at(&address.to_string(), 80), DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.read(&mut [0])
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(sandbox.event().contains("failed: Network is unreachable"));
    }
    // Its own address is the guest itself; nobody else's.
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(neighbour.within(SILENCE).is_err());
}
