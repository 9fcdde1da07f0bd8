//! An internet in a namespace, and a host on it for the program under test.
//!
//! ```text
//! the test's process: the host                            a thread of it: the internet
//! [ eth0 93.184.217.2, 2606:2800:217::2 ] ───────────── [ net0 93.184.217.1, and every other address there is ]
//!   /etc/resolv.conf: 93.184.216.53          every packet is seen here: Packets
//! ```
//!
//! [`enter`](crate::namespace::enter) comes first, before there are threads; then [`Internet::start`]. Everything is real:
//! packets, DNS, TLS with certificates by a root of its own, git, sshd. Whatever address is dialled, private ones and
//! those of clouds included, somebody answers, and what has arrived can be asked for: a test of what must not leave a sandbox
//! asserts that there was nothing ([`Internet::arrived`]). Names and their addresses: `zone.txt`.
//!
//! | port | server |
//! |---|---|
//! | 53, 853 | DNS over UDP and TCP, over TLS |
//! | 80, 8080; 443, 8443 | the web (`web.rs`); with TLS |
//! | 22 | sshd, for whoever has [`Internet::ssh_key`] |
//! | 5432 | speaks first, then echoes |
//! | 25, 587 | mail, with STARTTLS |
//! | 7 | echo; and UDP at 7, 123 and 443 |

mod authority;
mod dns;
mod harness;
mod packets;
mod raw;
mod record;
mod repositories;
mod shell;
mod stream;
mod web;
mod websocket;
mod zone;

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::mount_bind;
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::LazyConfigAcceptor;

use self::{
    authority::Authority,
    dns::Dns,
    packets::Packets,
    record::Records,
    repositories::Repositories,
    shell::Shell,
    stream::{Reached, Recorded},
    web::Web,
    zone::Zone,
};
pub use self::{
    harness::{Story, tell},
    packets::Packet,
    record::{Arrival, Request},
};
use crate::namespace::ip;

/// The host's own address.
pub const HOST4: Ipv4Addr = Ipv4Addr::new(93, 184, 217, 2);
/// The host's own address of IPv6.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x2800, 0x217, 0, 0, 0, 0, 2);
/// The server that the host's resolver asks.
pub const DNS4: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 53);

/// Addresses of the internet that datagrams are answered at; a server's answer has to come from where it was asked.
const DATAGRAM_SERVERS: [&str; 6] =
    ["93.184.216.34", "93.184.216.66", "10.0.0.5", "169.254.169.254", "2606:2800:220:1::34", "2606:2800:220:1::66"];
const DNS_SERVERS: [&str; 3] = ["93.184.216.53", "93.184.216.66", "2606:2800:220:1::53"];

/// An internet at work. It ends with the process.
#[derive(Debug)]
pub struct Internet {
    folder: TempDir,
    records: Records,
    outside: Arc<Packets>,
    inside: Arc<Packets>,
    shell: Shell,
}

/// What has arrived since the last look.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Where packets went that left the host.
    pub packets: BTreeSet<Packet>,
    /// Where packets went that the host sent to itself.
    pub to_the_host: BTreeSet<Packet>,
    /// What servers were told.
    pub told: Vec<Arrival>,
}

impl Internet {
    /// Start it, in a process that has moved into namespaces of its own.
    ///
    /// # Errors
    /// The namespaces are not there, or a program is missing.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("internet-").tempdir()?;
        let authority = Authority::new()?;
        fs::write(folder.path().join("root.pem"), authority.pem())?;
        let resolv = folder.path().join("resolv.conf");
        fs::write(&resolv, format!("nameserver {DNS4}\n"))?;
        mount_bind(&resolv, "/etc/resolv.conf").context("have a resolv.conf of its own")?;

        let records = Records::default();
        let dns = Dns::new(Zone::read(include_str!("zone.txt"))?, records.clone());
        let repositories = Arc::new(Repositories::make(folder.path())?);
        let web = Web { records: records.clone(), dns, repositories };
        let shell = Shell::make(&folder.path().join("ssh"))?;
        let (ready, is_ready) = mpsc::channel();
        let start_shell = shell.starter();
        std::thread::Builder::new().name("internet".to_owned()).spawn(move || {
            let serve = || -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                ip(&outside())?;
                let packets = Packets::watch("net0")?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    start_shell.start()?;
                    serve(&web, &authority).await?;
                    ready.send(Ok(packets))?;
                    std::future::pending().await
                })
            };
            if let Err(error) = serve() {
                let _ = ready.send(Err(error));
            }
        })?;
        let outside = is_ready.recv()??;
        ip(&inside())?;
        let inside = Packets::watch("lo")?;
        host_services(&records)?;
        Ok(Self { folder, records, outside, inside, shell })
    }

    /// A file with the root that its servers' certificates are by: `SSL_CERT_FILE` of the program under test.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// A private key of OpenSSH's for `git@shell.good.test`, and what `known_hosts` says of the server.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn ssh_key(&self) -> Result<(String, String)> {
        self.shell.key()
    }

    /// What has arrived since the last call.
    #[must_use]
    pub fn arrived(&self) -> Arrived {
        Arrived { packets: self.outside.take(), to_the_host: self.inside.take(), told: self.records.take() }
    }

    /// A folder of its own, for what a story makes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Arrived {
    /// The requests, in their order.
    #[must_use]
    pub fn requests(&self) -> impl DoubleEndedIterator<Item = &Request> {
        self.told.iter().filter_map(|arrival| match arrival {
            Arrival::Request(request) => Some(request),
            _ => None,
        })
    }

    /// The names that servers were asked for, in their order and as they were spelt; not what an allowed host was asked within HTTPS.
    pub fn questions(&self) -> impl Iterator<Item = &str> {
        self.told.iter().filter_map(|arrival| match arrival {
            Arrival::Question { name, over, .. } if *over != "https" => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether this text has come to any server.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        self.told.iter().any(|arrival| arrival.mentions(text))
    }
}

/// The host's link, once the other end is there.
fn inside() -> String {
    format!(
        "addr add {HOST4}/24 dev eth0\naddr add {HOST6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 93.184.217.1\nroute add default via 2606:2800:217::1\n"
    )
}

/// The internet's links: one to the host, which its process's first thread is in; everything but the host is here.
fn outside() -> String {
    let host = std::process::id();
    let servers: BTreeSet<_> = DATAGRAM_SERVERS.into_iter().chain(DNS_SERVERS).collect();
    // Nobody is asked whether somebody else has an address; until that is over, nobody could listen there.
    let at_once = |server: &str| if server.contains(':') { " nodad" } else { "" };
    let servers: Vec<_> =
        servers.iter().map(|server| format!("addr add {server} dev lo{}\n", at_once(server))).collect();
    let servers = servers.concat();
    format!(
        "link set lo up\nlink add net0 type veth peer name eth0 netns {host}\n\
         addr add 93.184.217.1/24 dev net0\naddr add 2606:2800:217::1/64 dev net0 nodad\nlink set net0 up\n\
         route add 93.184.217.0/24 dev net0 table local\nroute add 2606:2800:217::/64 dev net0 table local\n\
         route add fe80::/64 dev net0 table local\n{servers}\
         route add local default dev lo table local\nroute add local ::/0 dev lo table local\n"
    )
}

async fn serve(web: &Web, authority: &Arc<Authority>) -> Result<()> {
    let records = &web.records;
    for address in DNS_SERVERS {
        let socket = UdpSocket::bind((address.parse::<IpAddr>()?, 53)).await?;
        tokio::spawn(web.dns.clone().datagrams(socket));
    }
    for address in DATAGRAM_SERVERS {
        for port in [7, 123, 443] {
            let socket = UdpSocket::bind((address.parse::<IpAddr>()?, port)).await?;
            tokio::spawn(raw::datagrams(socket, records.clone()));
        }
    }
    for port in [80, 8080] {
        let web = web.clone();
        listen(port, move |stream, reached| web.clone().connection(stream, reached)).await?;
    }
    let https = authority.server(&["h2", "http/1.1"])?;
    for port in [443, 8443] {
        let (web, https) = (web.clone(), Arc::clone(&https));
        listen(port, move |stream, reached| with_tls(web.clone(), stream, reached, Arc::clone(&https))).await?;
    }
    let dns = web.dns.clone();
    listen(53, move |stream, _| ignore(dns.clone().connection(stream, "tcp"))).await?;
    let plain = authority.server(&[])?;
    let (dns, tls) = (web.dns.clone(), Arc::clone(&plain));
    listen(853, move |stream, _| ignore(dns_over_tls(dns.clone(), stream, Arc::clone(&tls)))).await?;
    let recorded = records.clone();
    listen(7, move |stream, reached| ignore(raw::echo(Recorded::new(stream, &reached, &recorded)))).await?;
    let recorded = records.clone();
    listen(5432, move |stream, reached| ignore(raw::banner(Recorded::new(stream, &reached, &recorded)))).await?;
    for port in [25, 587] {
        let (recorded, tls) = (records.clone(), Arc::clone(&plain));
        listen(port, move |stream, reached| {
            ignore(raw::mail(Recorded::new(stream, &reached, &recorded), Arc::clone(&tls)))
        })
        .await?;
    }
    Ok(())
}

/// Serve each connection to a port, whatever the address.
async fn listen<F>(port: u16, serve: impl Fn(TcpStream, Reached) -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    // An IPv6 socket takes IPv4's connections, too (RFC 3493, section 3.7).
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("port {port}"))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(server) = stream.local_addr() {
                let server = SocketAddr::new(server.ip().to_canonical(), server.port());
                tokio::spawn(serve(stream, Reached { server, sni: None }));
            }
        }
    });
    Ok(())
}

async fn with_tls(web: Web, stream: TcpStream, mut reached: Reached, config: Arc<ServerConfig>) {
    // Who breaks off here, or trusts another root, has told nobody anything.
    let Ok(hello) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await else { return };
    reached.sni = hello.client_hello().server_name().map(ToOwned::to_owned);
    if let Ok(stream) = hello.into_stream(config).await {
        web.connection(stream, reached).await;
    }
}

async fn dns_over_tls(dns: Dns, stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await?;
    dns.connection(stream, "tls").await
}

/// However a connection ends, the server goes on.
async fn ignore(connection: impl Future<Output = io::Result<()>>) {
    let _ = connection.await;
}

/// What listens on the host itself, as on many developers' machines: something on port 8080 of every address.
fn host_services(records: &Records) -> Result<()> {
    let listener = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080))?;
    let records = records.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(server) = stream.local_addr() else { continue };
            let server = SocketAddr::new(server.ip().to_canonical(), server.port());
            records.add(Arrival::Bytes { server, sni: None, bytes: b"the host was reached".to_vec() });
            let _ = io::Write::write_all(&mut &stream, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhost\n");
        }
    });
    Ok(())
}
