//! From a specification to a running [`Sandbox`].
//!
//! Invariant: every effect on the host has its undo row first, and whatever fails or is dropped half-way is given back
//! by [`Hold`].

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use matchlock_model::{Phase, SandboxSpec, one_line};
use matchlock_store::{Action, StoreError, claim_folder, identity_of};
use matchlock_vmm::{
    BootError, Booted, ConsoleLog, Deadlines, Disk, Fallback, Machine, Policy, Running, boot,
    qemu::{Qemu, QemuError},
    upper::{self, UpperError},
};
use matchlock_wire::Request;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    Host,
    ask::{AskError, ask},
    disks::{DiskError, DiskLocks},
    hold::Hold,
    host::{GuestFiles, PrepareError},
    link::{Link, LinkError},
    log::VmLog,
    relay,
    sandbox::{Guest, Sandbox},
    start,
    template::{self, NoTemplate, Ready},
};

/// How long a booted guest may take to mount its disks and become the sandbox. Emulated, on a loaded machine, it is
/// a second or two.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The sandbox; its id is chosen by the launch.
    pub spec: SandboxSpec,
    /// The image's EROFS file, open: it may be removed from the cache meanwhile.
    pub image: Arc<File>,
    /// What stays of it.
    pub keep: Keep,
    /// Boot, although a template could be continued.
    pub cold: bool,
}

/// What stays of a sandbox when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Not even its record.
    Nothing,
    /// Its record and its log, until it is removed.
    Record,
}

/// Why a sandbox could not be started.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LaunchError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no free VM id found")]
    NoFreeId,
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("make the writable layer")]
    Upper(#[from] UpperError),
    #[error(transparent)]
    Boot(#[from] BootError<QemuError, LinkError>),
    #[error(transparent)]
    Guest(#[from] AskError),
    #[error("the guest did not mount its disks within {0} seconds")]
    GuestSilent(u64),
    #[error("{what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Sandbox {
    /// Start a sandbox. Dropping the future gives back what it had taken so far.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub async fn launch(host: &Host, launch: Launch) -> Result<Self, LaunchError> {
        let Launch { mut spec, image, keep, cold } = launch;
        let disks = DiskLocks::take(&spec.extra_disks)?;
        // What takes long and belongs to no sandbox comes first: a kernel may have to be fetched, a disk be formatted.
        let files = host.prepare().await?;
        prepare_upper(host, &spec).await?;
        let template = if cold { None } else { Some(template_for(host, &files, &spec).await) };
        let mut hold = Hold::register(host, &mut spec, disks)?;
        match assemble(host, &mut hold, spec, image, files, template).await {
            Ok(guest) => {
                hold.keep = keep;
                Ok(Self { guest, hold })
            }
            Err(error) => {
                hold.failed(&error);
                Err(error)
            }
        }
    }
}

/// Have the empty disk that writable layers of this size are copied from.
async fn prepare_upper(host: &Host, spec: &SandboxSpec) -> Result<(), LaunchError> {
    let (uppers, size_mb) = (host.cache.uppers(), u64::from(spec.resources.disk_size_mb));
    let made = tokio::task::spawn_blocking(move || upper::original(&uppers, size_mb).map(drop));
    Ok(made.await.map_err(PrepareError::from)??)
}

async fn assemble(
    host: &Host,
    hold: &mut Hold,
    spec: SandboxSpec,
    image: Arc<File>,
    files: GuestFiles,
    template: Option<Result<Ready, NoTemplate>>,
) -> Result<Guest, LaunchError> {
    let layout = host.state.vm(&spec.id);
    hold.claim = Some(claim_folder(layout.dir())?);
    let log = VmLog::create(&layout.log()).map_err(|source| LaunchError::Io { what: "make the log", source })?;
    upper::create(&host.cache.uppers(), u64::from(spec.resources.disk_size_mb), &layout.upper())?;
    hold.store.advance(&spec.id, &[Phase::Created, Phase::Starting], |_| {})?;

    let disks = start::disks(&spec, path_of(&image), layout.upper(), hold.disks.paths());
    let machine = Machine { console_log: Some(console_log(&log)), ..machine(&files, &spec, disks) };
    let Up { running, link, notices } = bring_up(&files.vmm, &machine, &spec, template).await?;
    // It dies with this process by itself; the row is for one that is stuck and for those who ask what is held.
    let process = identity_of(running.pid()).map_err(|source| LaunchError::Io { what: "read /proc", source })?;
    if let Some(process) = process {
        hold.store.push_undo(&spec.id, &Action::EndProcess { process })?;
    }
    hold.machine = Some(running);
    let spec = Arc::new(spec);
    let relay = relay::serve(&layout.exec_socket(), link.clone(), Arc::clone(&spec))
        .map_err(|source| LaunchError::Io { what: "listen on exec.sock", source })?;
    hold.store.advance(&spec.id, &[Phase::Running], |_| {})?;
    Ok(Guest { spec, link, log, notices, _relay: relay })
}

/// A path for as long as the file is open here (`proc_pid_fd(5)`).
pub(crate) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The machine for `spec` with these disks.
fn machine(files: &GuestFiles, spec: &SandboxSpec, disks: Vec<Disk>) -> Machine {
    Machine {
        vcpus: spec.resources.cpus.vcpus(),
        memory_mb: spec.resources.memory_mb,
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        cmdline: Vec::new(),
        disks,
        console_log: None,
    }
}

/// The template for `spec`, before there is anything of its sandbox.
async fn template_for(host: &Host, files: &GuestFiles, spec: &SandboxSpec) -> Result<Ready, NoTemplate> {
    // Which files its disks are does not matter to a template.
    let disks = start::disks(spec, PathBuf::new(), PathBuf::new(), vec![PathBuf::new(); spec.extra_disks.len()]);
    template::ensure(host, &files.vmm, &machine(files, spec, disks)).await
}

/// A machine whose guest is the sandbox.
struct Up {
    running: Running,
    link: Link,
    notices: Vec<String>,
}

/// Continue a saved guest. What the guest itself refuses, it would refuse as well if it were booted.
async fn continue_saved(
    vmm: &Qemu,
    machine: &Machine,
    spec: &SandboxSpec,
    template: Result<Ready, NoTemplate>,
) -> Result<(Up, Result<(), LaunchError>), NoTemplate> {
    let template = template?;
    let become_it = async |link: Link| match become_sandbox(&link, spec).await {
        Err(LaunchError::Guest(AskError::Link(broken))) => Err(broken),
        started => Ok((link, started)),
    };
    let (running, (link, started)) = template.restore(vmm, machine, become_it).await?;
    let notices = template.fallback.iter().map(emulated).collect();
    Ok((Up { running, link, notices }, started))
}

fn emulated(reason: &Fallback) -> String {
    format!("using software emulation: {reason}")
}

/// Continue a saved guest if there is one, or boot one, until it is the sandbox.
async fn bring_up(
    vmm: &Qemu,
    machine: &Machine,
    spec: &SandboxSpec,
    template: Option<Result<Ready, NoTemplate>>,
) -> Result<Up, LaunchError> {
    let mut notices = Vec::new();
    if let Some(template) = template {
        match continue_saved(vmm, machine, spec, template).await {
            Ok((up, started)) => return started.map(|()| up),
            Err(reason) => notices.push(format!("starting cold: {}", one_line(&reason))),
        }
    }
    let Booted { running, ready: link, fallback, .. } =
        boot(vmm, machine, Policy::Auto, Deadlines::default(), greet).await?;
    notices.extend(fallback.iter().map(emulated));
    become_sandbox(&link, spec).await?;
    Ok(Up { running, link, notices })
}

/// The console goes into the sandbox's log, so that one bound holds for both.
fn console_log(log: &VmLog) -> ConsoleLog {
    let log = log.clone();
    ConsoleLog::new(move |bytes| log.append(bytes))
}

/// The guest is ready when it has said hello.
async fn greet(stream: std::os::unix::net::UnixStream) -> Result<Link, LinkError> {
    Link::to_guest(UnixStream::from_std(stream)?).await
}

async fn become_sandbox(link: &Link, spec: &SandboxSpec) -> Result<(), LaunchError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    let message = start::message(spec, clock_ns, random()?);
    let ask = ask(link, Request::Start(Box::new(message)));
    let silent = |_| LaunchError::GuestSilent(START_DEADLINE.as_secs());
    Ok(tokio::time::timeout(START_DEADLINE, ask).await.map_err(silent)??)
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], LaunchError> {
    let mut bytes = [0; N];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| LaunchError::Io { what: "get random bytes", source: io::Error::other(error) })?;
    Ok(bytes)
}
