//! The host of a story, and its internet: a network namespace whose loopback has public-looking addresses.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::OnceLock,
    thread,
    time::Duration,
};

use matchlock_testkit::namespace;

/// For anything that a story waits for and that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// For what must *not* happen: long enough for it to have come on a loopback.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

pub(crate) const SERVER4: &str = "93.184.216.34";
pub(crate) const SERVER6: &str = "2606:2800:220:1::1";
/// The host has it, but nothing of the sandbox should.
pub(crate) const DNS: &str = "9.9.9.9";

/// What kind of host a story's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// It lets its users make namespaces.
    Usual,
    /// It forbids that, looks closely at where packets come from, and forwards them; this program has rights in its network.
    Forbidding,
}

static HOST: OnceLock<Host> = OnceLock::new();

/// That of the story.
pub(crate) fn host() -> Host {
    *HOST.get().unwrap_or(&Host::Usual)
}

/// This process is in a world already.
pub(crate) fn be_on(host: Host) {
    HOST.set(host).unwrap();
}

/// Move this process into a world of its own.
pub(crate) fn enter(host: Host) {
    be_on(host);
    match host {
        Host::Usual => namespace::enter().unwrap(),
        Host::Forbidding => {
            namespace::enter_forbidding().unwrap();
            for setting in ["conf/all/rp_filter", "conf/default/rp_filter", "ip_forward"] {
                fs::write(format!("/proc/sys/net/ipv4/{setting}"), "1").unwrap();
            }
        }
    }
    let addresses = [SERVER4, DNS].map(|address| format!("addr add {address} dev lo\n"));
    // Otherwise the kernel says at some later time that nobody else has it, and until then nobody can listen there.
    let address6 = format!("addr add {SERVER6} dev lo nodad\n");
    ip(&(addresses.concat() + &address6));
}

/// Have ip(8) do these things in the calling thread's namespace.
pub(crate) fn ip(batch: &str) {
    namespace::ip(batch).unwrap();
}

pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

/// A server that reads until its client has closed its half, and then sends it all back.
pub(crate) fn tcp_echo_after_end(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut said = Vec::new();
                if stream.read_to_end(&mut said).is_ok() {
                    let _ = stream.write_all(&said);
                }
            });
        }
    });
}

/// A server that sends each datagram back.
pub(crate) fn udp_echo(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            let _ = socket.send_to(&buffer[..length], client);
        }
    });
}
