//! UDP through the gateway.

use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
};

use matchlock_net::namespace::Plan;

use crate::{
    Story, sandbox,
    world::{DEADLINE, DNS, SERVER4, SERVER6, SILENCE, at, udp_echo},
};

pub(crate) const STORIES: &[Story] = &[
    ("udp_is_answered_from_the_address_that_was_asked", answered),
    ("udp_flows_do_not_mix", flows),
    ("udp_that_is_denied_goes_nowhere_and_is_told_once", denied),
    ("udp_flows_that_are_under_way_are_told_of_when_the_gateway_ends", gateway_ends),
    ("udp_that_the_plan_refuses_is_refused_with_an_answer", refused),
];

/// In the guest.
pub(crate) fn socket(like: &str) -> UdpSocket {
    let any = if like.parse::<IpAddr>().unwrap().is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind(at(any, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn answered() {
    let sandbox = sandbox::open();
    for (server, port) in [(SERVER4, 123), (SERVER4, 443), (SERVER4, 7000), (SERVER6, 443), (SERVER6, 50000)] {
        udp_echo(at(server, port));
        sandbox.guest.run(|| {
            let socket = socket(server);
            for length in [1, 1400, 9000, 0, 60000] {
                socket.send_to(&vec![7; length], at(server, port)).unwrap();
                let mut answer = vec![0; 65536];
                let (received, from) = socket.recv_from(&mut answer).unwrap();
                assert_eq!((received, from), (length, at(server, port)));
            }
        });
    }
}

fn flows() {
    let sandbox = sandbox::open();
    let servers = [at(SERVER4, 1000), at(SERVER4, 1001), at(SERVER6, 1000)];
    servers.into_iter().for_each(udp_echo);
    sandbox.guest.run(|| {
        let sockets: Vec<_> = (0..20).map(|_| (socket(SERVER4), socket(SERVER6))).collect();
        for round in 0..3_u8 {
            for (i, (v4, v6)) in (0..).zip(&sockets) {
                for (socket, server) in [(v4, servers[0]), (v4, servers[1]), (v6, servers[2])] {
                    socket.send_to(&[round, i], server).unwrap();
                    let mut answer = [0; 10];
                    let (length, from) = socket.recv_from(&mut answer).unwrap();
                    assert_eq!((&answer[..length], from), (&[round, i][..], server));
                }
            }
        }
    });
}

fn denied() {
    let sandbox = sandbox::without(SERVER4);
    let server = UdpSocket::bind(at(SERVER4, 443)).unwrap();
    sandbox.guest.run(|| {
        let socket = socket(SERVER4);
        for _ in 0..5 {
            socket.send_to(b"x", at(SERVER4, 443)).unwrap();
        }
    });
    let nothing = "Flow(Moved { from_guest: 0, to_guest: 0 })";
    assert_eq!(sandbox.event(), format!("{nothing} {SERVER4}:443 denied: {SERVER4}: {SERVER4} is a multicast address"));
    assert!(sandbox.within(SILENCE).is_err());
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn gateway_ends() {
    let mut sandbox = sandbox::open();
    udp_echo(at(SERVER4, 123));
    sandbox.guest.run(|| {
        let socket = socket(SERVER4);
        socket.send_to(b"hello", at(SERVER4, 123)).unwrap();
        socket.recv(&mut [0; 10]).unwrap();
    });
    sandbox.stop();
    assert_eq!(sandbox.event(), format!("Flow(Moved {{ from_guest: 5, to_guest: 5 }}) {SERVER4}:123 done"));
}

fn refused() {
    let plan = Plan { udp: false, ..sandbox::plan() };
    let sandbox = sandbox::start(plan, sandbox::everything(), sandbox::servers(&[DNS]));
    for server in [SERVER4, SERVER6] {
        udp_echo(at(server, 443));
        let outcome = sandbox.guest.run(|| {
            let socket = socket(server);
            socket.connect(at(server, 443)).unwrap();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0; 10])
        });
        // "Administratively prohibited", as Linux has it for either family.
        let kind = outcome.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::HostUnreachable | ErrorKind::PermissionDenied), "{server}: {kind}");
    }
}
