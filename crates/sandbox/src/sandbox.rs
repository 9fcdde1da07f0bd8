//! The life of a sandbox, from the supervisor's side.
//!
//! ```text
//! register (row, undo rows) ─ folder ─ writable layer ─ boot ─ Start ─ exec.sock ─> running ─ close ─> cleaned
//!        └───────────────────────── dropped anywhere ────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: every effect on the host has its undo row first; the drop of a [`Sandbox`], or of the future that
//! launches one, ends the machine and replays those rows, just as [`Sandbox::close`] and `gc` do; the machine dies with
//! this process in any case.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use matchlock_model::{ExitStatus, Phase, SandboxId, SandboxSpec, VmLayout};
use matchlock_store::{
    Action, Details, FolderClaim, Registration, Released, SandboxStore, StoreError, claim_folder, identity_of,
    own_identity,
};
use matchlock_vmm::{
    BootError, Booted, ConsoleLog, Deadlines, Machine, Policy, ProcessEnd, Running, boot,
    qemu::QemuError,
    upper::{self, UpperError},
};
use matchlock_wire::{Event, Exec, Note, Request};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    Host,
    exec::{self, ExecError, Streams},
    host::{GuestFiles, PrepareError},
    link::{Link, LinkError},
    log::VmLog,
    relay::{self, Relay},
    start,
};

/// How long a booted guest may take to mount its disks and become the sandbox. Emulated, on a loaded machine, it is
/// a second or two.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// How long the guest may take for its clean end beyond the time that its processes are given.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(30);

/// How long a machine whose link broke may take to be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ids tried before giving up; each is one of four thousand million.
const ID_ATTEMPTS: usize = 8;

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The sandbox; its id is chosen by the launch.
    pub spec: SandboxSpec,
    /// The image's EROFS file.
    pub image: PathBuf,
    /// What stays of it.
    pub keep: Keep,
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

/// Why the guest did not do what it was asked.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AskError {
    #[error("guest: {0}")]
    Refused(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Why a sandbox left something behind.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CloseError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} (matchlock gc tries again)")]
    Left(String),
    #[error("the guest did not end in order ({0}): what it had not written to its disks is lost")]
    Unclean(String),
}

/// A running sandbox. Dropping it ends it.
#[derive(Debug)]
pub struct Sandbox {
    spec: Arc<SandboxSpec>,
    link: Link,
    log: VmLog,
    notices: Vec<String>,
    _relay: Relay,
    /// Last to go: see [`Hold`].
    hold: Hold,
}

/// What this process holds for a sandbox. Dropped, it gives everything back.
#[derive(Debug)]
struct Hold {
    store: SandboxStore,
    id: SandboxId,
    keep: Keep,
    machine: Option<Running>,
    /// Held until the machine is gone; says so to other processes.
    claim: Option<FolderClaim>,
    released: bool,
}

impl Sandbox {
    /// Start a sandbox. Dropping the future gives back what it had taken so far.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub async fn launch(host: &Host, launch: Launch) -> Result<Self, LaunchError> {
        // What takes long and belongs to no sandbox comes first: a kernel may have to be fetched.
        let guest = host.prepare().await?;
        let Launch { mut spec, image, keep } = launch;
        let mut hold = Hold::register(host, &mut spec)?;
        let result = Self::bring_up(host, &mut hold, spec, image, guest).await;
        match result {
            Ok((spec, link, log, notices, relay)) => {
                hold.keep = keep;
                Ok(Self { spec, link, log, notices, _relay: relay, hold })
            }
            Err(error) => {
                hold.failed(&error);
                Err(error)
            }
        }
    }

    async fn bring_up(
        host: &Host,
        hold: &mut Hold,
        spec: SandboxSpec,
        image: PathBuf,
        guest: GuestFiles,
    ) -> Result<(Arc<SandboxSpec>, Link, VmLog, Vec<String>, Relay), LaunchError> {
        let layout = host.state.vm(&spec.id);
        hold.claim = Some(claim_folder(layout.dir())?);
        let log = VmLog::create(&layout.log()).map_err(|source| LaunchError::Io { what: "make the log", source })?;
        upper::create(&host.cache.uppers(), u64::from(spec.resources.disk_size_mb), &layout.upper())?;
        hold.store.advance(&spec.id, &[Phase::Created, Phase::Starting], |_| {})?;

        let machine = Machine {
            vcpus: spec.resources.cpus.vcpus(),
            memory_mb: spec.resources.memory_mb,
            kernel: guest.kernel,
            initramfs: guest.initramfs,
            cmdline: Vec::new(),
            disks: start::disks(&spec, image, layout.upper()),
            console_log: Some(console_log(&log)),
        };
        let booted = boot(&guest.vmm, &machine, Policy::Auto, Deadlines::default(), greet).await?;
        let Booted { running, ready: link, fallback, .. } = booted;
        let notices = fallback.map(|reason| format!("using software emulation: {reason}")).into_iter().collect();
        // It dies with this process by itself; the row is for one that is stuck and for those who ask what is held.
        if let Some(process) =
            identity_of(running.pid()).map_err(|source| LaunchError::Io { what: "read /proc", source })?
        {
            hold.store.push_undo(&spec.id, &Action::EndProcess { process })?;
        }
        hold.machine = Some(running);

        become_sandbox(&link, &spec).await?;
        let spec = Arc::new(spec);
        let relay = relay::serve(&layout.exec_socket(), link.clone(), Arc::clone(&spec))
            .map_err(|source| LaunchError::Io { what: "listen on exec.sock", source })?;
        hold.store.advance(&spec.id, &[Phase::Running], |_| {})?;
        Ok((spec, link, log, notices, relay))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.spec.id
    }

    /// Its log.
    #[must_use]
    pub const fn log(&self) -> &VmLog {
        &self.log
    }

    /// Change what is to stay of it.
    pub const fn keep(&mut self, keep: Keep) {
        self.hold.keep = keep;
    }

    /// What the user should know about how it runs, one line each.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Run a program in it with the specification's environment, folder and user where `exec` names none.
    ///
    /// # Errors
    /// [`ExecError`] if it could not be started or the sandbox ended first.
    pub async fn exec(&self, exec: Exec, streams: Streams) -> Result<ExitStatus, ExecError> {
        exec::run(&self.link, exec::with_defaults(exec, &self.spec), streams).await
    }

    /// Wait until it ends by itself; returns why, in one line.
    pub async fn ended(&self) -> String {
        let broken = self.link.closed().await;
        let Some(machine) = &self.hold.machine else { return broken.to_string() };
        // The link can break a moment before the machine is gone, which says more; or the guest broke it, and goes on.
        match tokio::time::timeout(LAST_WORDS, machine.exited()).await {
            Ok(Ok(exit)) => exit.to_string(),
            _ => broken.to_string(),
        }
    }

    /// End it in order where that matters to anybody: processes get `grace` after SIGTERM, the user's disks are written
    /// out. [`Self::close`] has to follow.
    ///
    /// # Errors
    /// [`CloseError::Unclean`] for what may be lost.
    pub async fn shut_down(&self, grace: Duration) -> Result<(), CloseError> {
        let writes = self.spec.extra_disks.iter().any(|disk| !disk.readonly);
        // Nothing of the writable layer outlives the sandbox, so only the user's disks are worth the wait.
        if writes || !grace.is_zero() { self.power_off(grace).await } else { Ok(()) }
    }

    /// End it at once and give everything back.
    ///
    /// # Errors
    /// [`CloseError`] for what is left.
    pub fn close(mut self) -> Result<(), CloseError> {
        self.hold.release()
    }

    /// The guest answers by its machine's end.
    async fn power_off(&self, grace: Duration) -> Result<(), CloseError> {
        let unclean = |error: &dyn std::error::Error| CloseError::Unclean(error.to_string());
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        let ended = async {
            if let Err(refused @ AskError::Refused(_)) = ask(&self.link, Request::PowerOff { grace_ms }).await {
                return Err(unclean(&refused));
            }
            let Some(machine) = &self.hold.machine else { return Ok(()) };
            let exit = machine.exited().await.map_err(|error| unclean(&error))?;
            if exit.process == ProcessEnd::Code(0) { Ok(()) } else { Err(CloseError::Unclean(exit.to_string())) }
        };
        let silent = |_| CloseError::Unclean("it did not power off".to_owned());
        tokio::time::timeout(grace + POWER_OFF_DEADLINE, ended).await.map_err(silent)?
    }
}

impl Hold {
    /// Write the sandbox down under a free id, together with how to undo what is made first.
    fn register(host: &Host, spec: &mut SandboxSpec) -> Result<Self, LaunchError> {
        let mut store = host.sandboxes()?;
        let owner = own_identity().map_err(|source| LaunchError::Io { what: "read /proc", source })?;
        for _ in 0..ID_ATTEMPTS {
            spec.id = SandboxId::from_random(random()?);
            let layout = host.state.vm(&spec.id);
            // The folder itself is removed together with the row.
            let undo = [Action::RemoveFile { path: layout.upper() }, Action::RemoveFile { path: layout.exec_socket() }];
            let details = Details { backend: "qemu".to_owned(), resources: resources(&layout), ..Details::default() };
            match store.register(&Registration { spec, owner: &owner, details, undo: &undo }) {
                Ok(()) => {
                    let id = spec.id.clone();
                    // What does not come up is of no use to anybody, whatever was to be kept of it.
                    let keep = Keep::Nothing;
                    return Ok(Self { store, id, keep, machine: None, claim: None, released: false });
                }
                Err(StoreError::IdTaken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LaunchError::NoFreeId)
    }

    /// Note why it did not come up; the drop does the rest.
    fn failed(&mut self, error: &LaunchError) {
        let reason = error.to_string();
        let newest = self.store.history(&self.id).ok().and_then(|history| history.last().map(|record| record.phase));
        let phase = if newest == Some(Phase::Creating) { Phase::CreateFailed } else { Phase::StartFailed };
        if let Err(error) = self.store.advance(&self.id, &[phase], |details| details.last_error = reason) {
            tracing::debug!("record the failed start: {error}");
        }
    }

    /// End the machine and give everything back.
    fn release(&mut self) -> Result<(), CloseError> {
        self.released = true;
        // Dropping it ends it.
        self.machine = None;
        let Released { failed, .. } = self.store.release(&self.id)?;
        self.claim = None;
        if !failed.is_empty() {
            let left: Vec<_> = failed.iter().map(|(key, error)| format!("{key}: {error}")).collect();
            return Err(CloseError::Left(left.join("; ")));
        }
        if self.keep == Keep::Nothing {
            self.store.discard(&self.id)?;
        }
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = self.release()
        {
            tracing::warn!("clean up {}: {error}", self.id);
        }
    }
}

/// What belongs to a sandbox, as `inspect` shows it.
fn resources(layout: &VmLayout) -> BTreeMap<String, String> {
    let paths = [
        ("state_dir", layout.dir().to_owned()),
        ("rootfs_path", layout.upper()),
        ("exec_socket", layout.exec_socket()),
    ];
    paths.map(|(name, path)| (name.to_owned(), path.display().to_string())).into()
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

/// Ask the guest for something that it answers with `Done`.
async fn ask(link: &Link, request: Request) -> Result<(), AskError> {
    let mut session = link.open(request).await?;
    loop {
        match session.next().await {
            Some(Event::Note(_, Note::Done)) => return Ok(()),
            Some(Event::Note(_, Note::Failed(failure))) => {
                return Err(AskError::Refused(exec::printable(&failure.message)));
            }
            Some(_) => {}
            None => return Err(session.fate().into()),
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], LaunchError> {
    let mut bytes = [0; N];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| LaunchError::Io { what: "get random bytes", source: io::Error::other(error) })?;
    Ok(bytes)
}
