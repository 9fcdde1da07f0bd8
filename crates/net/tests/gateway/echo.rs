//! Pings through the gateway.

use std::net::UdpSocket;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::{
    Story, sandbox,
    world::{DEADLINE, SERVER4, SERVER6, SILENCE, at},
};

pub(crate) const STORIES: &[Story] = &[("echo_is_answered_if_and_only_if_the_host_would_be", echo)];

/// In the guest: whether a ping comes back, as it was sent.
fn ping(whom: &str, patience: std::time::Duration) -> bool {
    let whom = at(whom, 0);
    let (family, protocol, request, reply) = if whom.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp, 8, 0)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129)
    };
    let socket: UdpSocket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap().into();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.connect(whom).unwrap();
    for sequence in 1..4 {
        let message = [&[request, 0, 0, 0, 0, 0, 0, sequence][..], b"an odd payload!"].concat();
        socket.send(&message).unwrap();
        let mut answer = [0; 100];
        let Ok(length) = socket.recv(&mut answer) else { return false };
        assert_eq!((answer[0], &answer[6..length]), (reply, &message[6..]));
    }
    true
}

fn echo() {
    let sandbox = sandbox::without("203.0.113.1");
    for here in [SERVER4, SERVER6, "192.168.100.1", "fd6d:6174:6368::1"] {
        assert!(sandbox.guest.run(|| ping(here, DEADLINE)), "{here}");
    }
    for _ in 0..12 {
        assert!(sandbox.event().ends_with(" done"));
    }
    assert!(!sandbox.guest.run(|| ping("203.0.113.1", SILENCE)));
    assert_eq!(sandbox.event(), "Echo 203.0.113.1:0 denied: 203.0.113.1: 203.0.113.1 is a multicast address");
    // The host has no route there.
    assert!(!sandbox.guest.run(|| ping("203.0.113.2", SILENCE)));
    assert!(sandbox.event().contains("203.0.113.2:0 failed: Network is unreachable"));
}
