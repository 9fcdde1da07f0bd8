//! The contestant: a sandbox's gateway in a process of its own, as its supervisor has it, and the namespace where its guest's
//! packets arrive.
//!
//! Nothing is left out for the bench: policy, certificates, verification and the log of all requests are those of a sandbox.

use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use matchlock_sandbox::{
    VmLog,
    net::{
        gateway::{self, Forwarder, Inspector, Servers},
        guard::Guard,
        intercept::{self, Authority, Interceptor},
        namespace::{self, Furnished, HolderCommand, Plan},
        policy::{Mode, Policy},
        rules::Rules,
        secret::Current,
    },
    network::NetworkLog,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{
    program::{Program, Says},
    world::{self, ORIGIN, ORIGIN_NAME, SINK, SINK_NAME},
};

/// What the process goes by.
#[derive(clap::Args)]
pub(crate) struct Gateway {
    /// For its log, and its holder's pid
    folder: PathBuf,
    /// Which of the bench's sandboxes it is
    number: u8,
    /// Who signs for servers; without, the network is open
    #[arg(long)]
    roots: Option<PathBuf>,
}

/// Its process, as the bench has it.
pub(super) struct Sandbox {
    pub(super) process: Program,
    /// What a guest trusts.
    pub(super) authority: String,
    namespace: File,
}

/// Be a holder whose pid can be read.
pub(crate) fn hold(pid_file: &Path) -> Result<()> {
    fs::write(pid_file, std::process::id().to_string())?;
    Ok(namespace::hold()?)
}

impl Sandbox {
    /// Start it on the host, which is where the calling thread is.
    pub(super) fn start(folder: &Path, number: u8, roots: Option<&Path>) -> Result<Self> {
        let folder = folder.join(format!("sandbox-{number}"));
        fs::create_dir_all(&folder)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("gateway").arg(&folder).arg(number.to_string());
        command.args(roots.map(|roots| format!("--roots={}", roots.display())));
        let (process, said) = Program::start(&mut command, Says::Stdout, "authority")?;
        let said: Value = serde_json::from_str(&said).context("what the gateway says")?;
        let authority = said["authority"].as_str().unwrap_or_default().to_owned();
        let holder = fs::read_to_string(folder.join("holder"))?;
        let namespace = File::open(format!("/proc/{holder}/ns/net")).context("open the sandbox's namespace")?;
        Ok(Self { process, authority, namespace })
    }

    /// Link the client to it.
    pub(super) fn link(&self, name: &str, number: u8, to: &[std::net::Ipv4Addr]) -> Result<()> {
        world::link(&self.namespace, name, &world::addressing(number), to)
    }
}

impl Gateway {
    /// Serve until the standard input ends. One thread, as a supervisor has.
    pub(crate) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<()> {
        let addressing = world::addressing(self.number);
        let arguments = vec!["holder".into(), self.folder.join("holder").into()];
        let holder = HolderCommand { program: "/proc/self/exe".into(), arguments };
        let (_tap, unfurnished) = namespace::create(holder).await?;
        let plan = Plan { addressing, ipv6: false, udp: false };
        let Furnished::Private(doors, holder) = unfurnished.furnish(plan).await? else {
            bail!("this host forbids network namespaces to users; run it as root");
        };
        let console = VmLog::create(&self.folder.join("vm.log"))?;
        let log = NetworkLog::create(&self.folder.join("network.jsonl"), console)?;
        let events = log.sink(None);
        let policy = policy(self.roots.is_some())?;
        let guard = Guard::new(policy, Rules::default(), Forwarder { servers: Servers::These(Vec::new()) });
        let authority = Arc::new(Authority::new("Sandbox of the bench")?);
        let mut inspector: Option<Arc<dyn Inspector>> = None;
        if let Some(roots) = &self.roots {
            let mut trusted = RootCertStore::empty();
            trusted.add(CertificateDer::from_pem_file(roots)?)?;
            inspector = Some(Arc::new(Interceptor::new(intercept::Settings {
                guard: guard.clone(),
                secrets: Current::default(),
                authority: Arc::clone(&authority),
                roots: Arc::new(trusted),
                events: Arc::clone(&events),
            })?));
        }
        let judge = guard.clone();
        let settings = gateway::Settings {
            decide: Arc::new(move |protocol, destination| judge.decide(protocol, destination)),
            inspector,
            resolver: Arc::new(guard),
            events,
            addressing,
        };
        let _gateway = gateway::Gateway::start(doors, holder, settings)?;
        println!("{}", json!({ "authority": authority.pem() }));
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        Ok(())
    }
}

/// Two names with an address each, or everything.
fn policy(intercepts: bool) -> Result<Policy> {
    if !intercepts {
        return Ok(Policy { mode: Mode::Open, ..Policy::default() });
    }
    let mut policy = Policy::default();
    for (name, address) in [(ORIGIN_NAME, ORIGIN), (SINK_NAME, SINK)] {
        policy.allowed.push(name.parse()?);
        policy.added.push((name.parse()?, IpAddr::V4(address)));
    }
    Ok(policy)
}
