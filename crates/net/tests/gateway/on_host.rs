//! A link among the host's own, where user namespaces are forbidden: what the guest cannot do there, and that nothing stays.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
};

use matchlock_net::namespace::{self, HolderCommand, HostLink};
use matchlock_testkit::{run, tool};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities, set_capabilities_secure_bits},
};

use crate::{
    Story, end, sandbox, udp, walls,
    world::{DEADLINE, SERVER4, SERVER6, SILENCE, at, ip, udp_echo},
};

pub(crate) const STORIES: &[Story] = &[
    ("two_guests_with_the_same_addresses_are_told_apart", alike),
    ("sockets_of_the_host_are_out_of_reach_without_the_gateway", without_gateway),
    ("nothing_is_forwarded_and_nothing_answered_by_the_host", forwarded),
    ("a_killed_supervisor_leaves_nothing", killed),
    ("what_a_killed_holder_leaves_can_be_taken_away", holder_killed),
    ("without_rights_both_remedies_are_told", without_rights),
];

/// This program as a holder that may not make namespaces of any kind, but has these rights in the host's network. It is root in
/// name only, so that what it starts has no more than an ordinary user's program.
pub(crate) fn hold(rights: CapabilitySet) -> ExitCode {
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_ROOT).unwrap();
    let sets = CapabilitySets { effective: rights, permitted: rights, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).unwrap();
    namespace::hold().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// All that there is of links, rules and routes beside what every host has.
fn traces() -> String {
    let ip = |arguments: &[&str]| run(tool("ip", "iproute2").unwrap().args(arguments)).unwrap();
    let all = [
        ip(&["-o", "link"]),
        ip(&["rule"]),
        ip(&["-6", "rule"]),
        ip(&["route", "show", "table", "all"]),
        ip(&["-6", "route", "show", "table", "all"]),
        run(tool("nft", "nftables").unwrap().args(["list", "ruleset"])).unwrap(),
    ];
    all.concat()
}

fn alike() {
    let [one, other] = [sandbox::open(), sandbox::open()];
    udp_echo(at(SERVER4, 123));
    let listener = TcpListener::bind(at(SERVER4, 80)).unwrap();
    // Even the port is the same.
    let connect = || {
        let socket = UdpSocket::bind(at("0.0.0.0", 40001)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        (socket, TcpStream::connect_timeout(&at(SERVER4, 80), DEADLINE).unwrap())
    };
    let (one_udp, mut one_tcp) = one.guest.run(connect);
    let mut one_server = listener.accept().unwrap().0;
    let (other_udp, mut other_tcp) = other.guest.run(connect);
    let mut other_server = listener.accept().unwrap().0;
    for _ in 0..3 {
        for (socket, word) in [(&one_udp, b"one"), (&other_udp, b"two")] {
            socket.send_to(word, at(SERVER4, 123)).unwrap();
            let mut answer = [0; 3];
            assert_eq!(socket.recv_from(&mut answer).unwrap(), (3, at(SERVER4, 123)));
            assert_eq!(&answer, word);
        }
    }
    one_server.write_all(b"one").unwrap();
    other_server.write_all(b"two").unwrap();
    for (stream, word) in [(&mut one_tcp, b"one"), (&mut other_tcp, b"two")] {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut said = [0; 3];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, word);
    }
}

fn without_gateway() {
    // As sshd's: on every address, which to the guest's packets every address is.
    let server = TcpListener::bind(at("::", 22)).unwrap();
    let datagrams = UdpSocket::bind(at("::", 161)).unwrap();
    server.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let mut sandbox = sandbox::open();
    // A holder that is killed takes nothing away, and the doors go with the gateway.
    let holder = end::child_of(std::process::id());
    kill_process(Pid::from_raw(holder).unwrap(), Signal::KILL).unwrap();
    end::wait_for_end(holder);
    sandbox.stop();
    sandbox.guest.run(|| {
        for address in [SERVER4, SERVER6, "198.51.100.1", "192.168.100.1"] {
            let outcome = TcpStream::connect_timeout(&at(address, 22), SILENCE);
            assert!(outcome.is_err(), "{address}");
            udp::socket(address).send_to(b"x", at(address, 161)).unwrap();
        }
    });
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(datagrams.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn forwarded() {
    ip("link add out type veth peer name beyond\nlink set beyond up\n");
    fs::write("/proc/sys/net/ipv6/conf/out/disable_ipv6", "1").unwrap();
    ip("link set out up\naddr add 203.0.113.1/24 dev out\nroute add default via 203.0.113.2\n\
        neigh add 203.0.113.2 lladdr 02:00:00:00:00:01 dev out nud permanent\n");
    // The packets sent come tenth in the link's line.
    let sent = || {
        let links = fs::read_to_string("/proc/net/dev").unwrap();
        let line = links.lines().find_map(|line| line.trim().strip_prefix("out:")).unwrap();
        line.split_whitespace().nth(9).unwrap().parse::<u64>().unwrap()
    };
    let sandbox = sandbox::open();
    let before = sent();
    sandbox.guest.run(|| {
        // Echo requests, which the kernel would answer for every address.
        walls::send_raw(1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
        for port in [1, 22, 7000] {
            let outcome = TcpStream::connect_timeout(&at("192.168.100.1", port), DEADLINE);
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        let socket = udp::socket(SERVER4);
        socket.send_to(b"x", at(SERVER4, 9)).unwrap();
    });
    assert!(sandbox.event().contains("failed: Connection refused"));
    assert_eq!(sent(), before, "answers go to the guest's link or nowhere");
}

fn killed() {
    let clean = traces();
    let mut supervisor = end::supervisor(|_| {});
    let holder = end::child_of(supervisor.id());
    let made = traces();
    for trace in ["fc-0123abcd", "matchlock_fc-0123abcd", "fwmark 0x6d23abcd"] {
        assert!(made.contains(trace), "{trace}\n{made}");
    }
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    end::wait_for_end(holder);
    assert_eq!(traces(), clean);
}

fn holder_killed() {
    let clean = traces();
    let mut supervisor = end::supervisor(|_| {});
    let holder = end::child_of(supervisor.id());
    kill_process(Pid::from_raw(holder).unwrap(), Signal::KILL).unwrap();
    end::wait_for_end(holder);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert!(traces().contains("matchlock_fc-0123abcd"));
    let link = HostLink::of(sandbox::FIRST_ID);
    assert!(link.remove().unwrap(), "there was something");
    assert_eq!(traces(), clean);
    assert!(!link.remove().unwrap(), "there is nothing");
    // Another's is not touched.
    let mut supervisor = end::supervisor(|_| {});
    assert!(!HostLink::of(sandbox::FIRST_ID + 1).remove().unwrap());
    assert!(traces().contains("matchlock_fc-0123abcd"));
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
}

fn without_rights() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let holder = HolderCommand { arguments: vec!["hold-without-rights".into()], ..sandbox::holder() };
    let refused = runtime.block_on(namespace::create(holder)).unwrap_err().to_string();
    let program = std::env::current_exe().unwrap();
    let remedies = format!(
        "this host forbids user namespaces: run `sudo sysctl -w user.max_user_namespaces=10000`; or, for links among the host's \
         own, `sudo setcap cap_net_admin,cap_net_raw,cap_net_bind_service+ep {}`",
        program.display()
    );
    assert_eq!(refused, remedies);
}
