//! `xtask bench net`: what the network of a sandbox does, beside nginx and mitmproxy in its place, from one client.
//!
//! ```text
//! client ─ sandbox's namespace: rules ─ gateway ┐
//!        ─ link ─ nginx, mitmproxy ─────────────┴ TLS ─ nginx, the origin
//! ```
//!
//! The client is where a guest would be (`world.rs`), so that neither a machine nor its emulation is what is measured. The gateway
//! is a process of its own (`sandbox.rs`), with one thread, as in a supervisor; each nginx has one, too. This program has to be built
//! for release for that: if it is not, it builds itself again, and goes on as what was built.

mod authority;
mod client;
mod measures;
mod program;
mod rivals;
mod sandbox;
mod servers;
mod world;

use std::{
    fs::{self, File},
    io::{self, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::sandbox::{Gateway, hold};
use self::{
    authority::Certified,
    client::{LARGE, Peer, SMALL},
    measures::{Contest, Contestant},
    sandbox::Sandbox,
    world::{BESIDE, MITMPROXY_PORT, ORIGIN, ORIGIN_NAME, SINK, SINK_NAME, SOURCE, SOURCE_PORT, World},
};
use super::{document::Section, machine};

/// What to measure, and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds of each measure of a rate, in each of which all contestants have their turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a turn
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Requests one after the other
    #[arg(long, default_value_t = 3000)]
    requests: usize,
    /// Idle connections at once
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// Size of one upload, in GiB
    #[arg(long, default_value_t = 4)]
    upload: u64,
    /// Only print; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

/// The sandboxes.
const INTERCEPTED: u8 = 0;
const OPEN: u8 = 1;

pub(super) fn run(root: &Path, args: &Args) -> Result<()> {
    if cfg!(debug_assertions) {
        let released = super::build_release(root, "xtask", "xtask")?;
        bail!(Command::new(released).args(std::env::args_os().skip(1)).exec());
    }
    let home = root.join("target/bench-home");
    // From the internet, which this process is about to leave.
    let mitmdump = rivals::mitmdump(&home)?;
    let folder = home.join("net");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let files = folder.join("origin/files");
    fs::create_dir_all(&files)?;
    for (path, length) in [SMALL, LARGE] {
        // Not a hole, which has to be made anew each time it is read.
        io::copy(&mut io::repeat(b'x').take(length), &mut File::create(files.join(&path[1..]))?)?;
    }
    let addresses = [ORIGIN, SINK].map(|address| address.to_string());
    let certified = Certified::new(&folder, &[ORIGIN_NAME, SINK_NAME, &addresses[0], &addresses[1]])?;

    let world = World::enter()?;
    let _origin = rivals::origin(&folder, &certified)?;
    servers::sink(TcpListener::bind((SINK, 443))?, &certified)?;
    servers::source(TcpListener::bind((Ipv4Addr::UNSPECIFIED, SOURCE_PORT))?);
    let ours = Sandbox::start(&folder, INTERCEPTED, Some(&certified.root))?;
    let open = Sandbox::start(&folder, OPEN, None)?;
    world.become_client()?;
    ours.link("intercepted", INTERCEPTED, &[ORIGIN, SINK])?;
    open.link("open", OPEN, &[SOURCE])?;
    // These listen at an address that the link has brought.
    let trusted = fs::read_to_string(&certified.root)?;
    let (nginx, nginx_version) = world.on_host(|| rivals::proxy(&folder, &certified))?;
    let (mitmproxy, mitmproxy_version) = world.on_host(|| rivals::mitmproxy(&mitmdump, &folder, &certified))?;

    let contest = Contest {
        sink: Peer::sink(&ours.authority)?,
        ours: Contestant { peer: Peer::origin(ORIGIN, 443, &ours.authority)?, process: ours.process },
        nginx: Contestant { peer: Peer::origin(BESIDE, 443, &trusted)?, process: nginx },
        mitmproxy: Contestant { peer: Peer::origin(BESIDE, MITMPROXY_PORT, &trusted)?, process: mitmproxy },
        rounds: args.rounds,
        turn: Duration::from_secs_f64(args.seconds),
    };
    let with = format!(
        "Machine: {}\n\nOne client, on one thread, where a guest would be, so that emulation is not what is measured. All proxies carry \
         its requests to one server (nginx {nginx_version}, one worker) over TLS, on this machine: the gateway, which has one thread \
         as in a supervisor; nginx {nginx_version} with one worker, `proxy_ssl_verify` and connections to the server that are kept; \
         mitmproxy {mitmproxy_version}. TLS 1.3 with AES-256-GCM, X25519 and keys on P-256 everywhere; gateway and nginx verify the server, and log \
         each request.",
        machine(None)?
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let mut report = Section::begin("Network", &with);
    report.add(args.rounds, "requests", || runtime.block_on(contest.requests()));
    report.add(args.requests, "latency", || runtime.block_on(contest.latency(args.requests)));
    report.add(args.rounds, "new connections", || runtime.block_on(contest.new_connections()));
    report.add(args.rounds, "download", || runtime.block_on(contest.download()));
    report.add(args.rounds, "open network", || runtime.block_on(contest.open()));
    report.add(args.idle, "idle connections", || runtime.block_on(contest.idle(args.idle)));
    report.add(usize::from(args.upload > 0), "upload", || runtime.block_on(contest.upload(args.upload)));
    report.end(root, args.dry)
}
