//! From a specification to a running [`Sandbox`].
//!
//! Invariant: every effect on the host has its undo row first, and whatever fails or is dropped half-way is given back
//! by [`Hold`].

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
};

use matchlock_image::is_exchangeable;
use matchlock_model::{NetworkMode, Phase, SandboxSpec, VmLayout};
use matchlock_store::{Action, StoreError, claim_folder, identity_of};
use matchlock_vmm::{
    BootError, ConsoleLog, Disk, Machine, Nic,
    qemu::QemuError,
    upper::{self, UpperError},
};
use thiserror::Error;

use crate::{
    Host,
    ask::AskError,
    bring_up::{BringUp, Up},
    control::{self, Control},
    disks::{DiskError, DiskLocks},
    hold::Hold,
    host::{GuestFiles, PrepareError},
    link::LinkError,
    log::VmLog,
    network::{Cabling, Egress, GatewayError, Listener, NetworkLog, Prospect, guests_end},
    prepared::Prepared,
    relay,
    sandbox::{Guest, Sandbox},
    start,
    template::{NoTemplate, Ready},
    timeline::Timeline,
    warm::{Adoptable, ImageFile, adoptable},
};

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The sandbox; its id is chosen by the launch.
    pub spec: SandboxSpec,
    /// The image's EROFS file, open: it may be removed from the cache meanwhile.
    pub image: Arc<File>,
    /// What stays of it.
    pub keep: Keep,
    /// What it starts from: [`Host::prepare_for`] its specification.
    pub prepared: Prepared,
    /// What its gateway goes by; `None` for no network.
    pub egress: Option<Egress>,
    /// Who hears of what it does on the network.
    pub listener: Option<Listener>,
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
    Network(#[from] GatewayError),
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
    pub async fn launch(host: &Host, launch: Launch, timeline: &Timeline) -> Result<Self, LaunchError> {
        let Launch { mut spec, image, keep, prepared, egress, listener } = launch;
        let disks = DiskLocks::take(&spec.extra_disks)?;
        let mut hold = Hold::register(host, &mut spec, disks)?;
        timeline.mark("sandbox recorded");
        match assemble(host, &mut hold, spec, (image, prepared), (egress, listener), timeline).await {
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

async fn assemble(
    host: &Host,
    hold: &mut Hold,
    spec: SandboxSpec,
    (image, Prepared { files, template }): (Arc<File>, Prepared),
    (egress, listener): (Option<Egress>, Option<Listener>),
    timeline: &Timeline,
) -> Result<Guest, LaunchError> {
    let layout = host.state.vm(&spec.id);
    let spare = spare_for(host, &spec, &image, template.as_ref()).await;
    let network = egress.map(|egress| Prospect::of(&spec.network, &egress)).transpose()?;
    // Others bring their own.
    let needs_cable = spare.is_none() && !matches!(&template, Some(Ok(Ready { first: Some(_), .. })));
    let cabling = network.as_ref().map(|network| Cabling::new(network.plan(), needs_cable));
    hold.claim = Some(claim_folder(layout.dir())?);
    let log = VmLog::create(&layout.log()).map_err(|source| LaunchError::Io { what: "make the log", source })?;
    hold.store.advance(&spec.id, &[Phase::Created, Phase::Starting], |_| {})?;

    let disks = start::disks(&spec, path_of(&image), layout.upper(), hold.disks.paths());
    let machine = Machine { console_log: Some(console_log(&log)), ..machine(&files, &spec, disks) };
    let store = &mut hold.store;
    let link = cabling.as_ref().map(|cabling| guests_end(cabling.addressing()));
    let start = start::message(&spec, link, network.as_ref().and_then(Prospect::authority));
    let up = BringUp {
        vmm: &files.vmm,
        machine: Arc::new(machine),
        cabling,
        spec: &spec,
        start: &start,
        timeline,
        // It dies with this process by itself; the row is for one that is stuck and for those who ask what is held.
        started: |pid| {
            timeline.mark("VMM started");
            let process = identity_of(pid).map_err(|source| LaunchError::Io { what: "read /proc", source })?;
            process.map_or(Ok(()), |process| Ok(store.push_undo(&spec.id, &Action::EndProcess { process })?))
        },
        make_layer: |template: Option<&Ready>| {
            // A guest that was given up may have written to it.
            remove_layer(&layout)?;
            match template {
                Some(template) => template.copy_layer(&layout.upper())?,
                None => upper::create(&host.cache.uppers(), u64::from(spec.resources.disk_size_mb), &layout.upper())?,
            }
            timeline.mark("writable layer made");
            Ok(())
        },
    };
    let Up { running, link, notices, cabling, pool } = up.run(template, spare).await?;
    // The VMM has it open, and nobody else wants it: so it goes with the VMM, and giving it back costs nobody time.
    remove_layer(&layout)?;
    timeline.mark("guest ready");
    hold.machine = Some(running);
    let (network, control) = match (network, cabling) {
        (Some(network), Some(cabling)) => {
            let events = NetworkLog::create(&layout.network_log(), log.clone());
            let events = events.map_err(|source| LaunchError::Io { what: "make the log of the network", source })?;
            let ends = cabling.done(&mut hold.store, &spec.id).await?;
            let (gateway, control) = network.serve(ends, events.sink(listener)).await?;
            (Some((gateway, events)), control)
        }
        _ => (None, Control::default()),
    };
    let control = control::serve(&layout.control_socket(), control)
        .map_err(|source| LaunchError::Io { what: "listen on control.sock", source })?;
    timeline.mark("network ready");
    let spec = Arc::new(spec);
    let relay = relay::serve(&layout.exec_socket(), link.clone(), Arc::clone(&spec))
        .map_err(|source| LaunchError::Io { what: "listen on exec.sock", source })?;
    hold.store.advance(&spec.id, &[Phase::Running], |_| {})?;
    timeline.mark("sandbox ready");
    Ok(Guest { spec, link, log, notices, network, _control: control, _pool: pool, _relay: relay })
}

/// A guest that waits to become such a sandbox. None has disks of a user's, and all have a root that is mounted.
async fn spare_for(
    host: &Host,
    spec: &SandboxSpec,
    image: &File,
    template: Option<&Result<Ready, NoTemplate>>,
) -> Option<Adoptable> {
    // Where the machine that was saved can go on, others may have the spares.
    let Some(Ok(template)) = template.filter(|template| template.as_ref().is_ok_and(|t| t.first.is_none())) else {
        return None;
    };
    if !spec.extra_disks.is_empty() || !is_exchangeable(image).ok()? {
        return None;
    }
    adoptable(&host.state, template.key(), ImageFile::of(image).ok()?).await
}

fn remove_layer(layout: &VmLayout) -> Result<(), LaunchError> {
    match fs::remove_file(layout.upper()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LaunchError::Io { what: "remove the writable layer", source })
        }
        _ => Ok(()),
    }
}

/// A path for as long as the file is open here (`proc_pid_fd(5)`).
pub(crate) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The machine for `spec` with these disks.
pub(crate) fn machine(files: &GuestFiles, spec: &SandboxSpec, disks: Vec<Disk>) -> Machine {
    Machine {
        vcpus: spec.resources.cpus.vcpus(),
        memory_mb: spec.resources.memory_mb,
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        cmdline: Vec::new(),
        disks,
        nic: (spec.network.mode() != NetworkMode::None).then(Nic::default),
        console_log: None,
    }
}

/// The console goes into the sandbox's log, so that one bound holds for both.
fn console_log(log: &VmLog) -> ConsoleLog {
    let log = log.clone();
    ConsoleLog::new(move |bytes| log.append(bytes))
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], LaunchError> {
    let mut bytes = [0; N];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| LaunchError::Io { what: "get random bytes", source: io::Error::other(error) })?;
    Ok(bytes)
}
