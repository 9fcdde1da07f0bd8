//! A saved guest goes on: how it is saved, and how one machine after the other is made of it.
//!
//! ```text
//! save     boot with memory in a file ─> park ─> stop, write the state ─> publish        once for each shape
//! restore  the same command line on a private view of that memory ─> ready              every time
//! ```
//!
//! Called by `sandbox`. Invariant: as with [`crate::boot()`], either a guest is ready or no process of an attempt is left; and a
//! template appears only when it is whole.

use std::{io, os::unix::net::UnixStream, time::Duration};

use thiserror::Error;

use crate::{
    Accelerator, ConsoleLog, Disk, Machine, Origin, ProcessEnd, Running, Spare, Started, Vmm,
    boot::{Attempt, BootError, attend},
    qemu::{QemuError, QmpError},
    running::Exit,
    template::{Template, Unfinished},
};

/// How long a guest may run until it is ready to be saved: it boots, and rehearses what it will do.
const PARK_DEADLINE: Duration = Duration::from_secs(25);

/// How long QEMU may take to write a stopped machine's state, of some 60 kB.
const SAVE_DEADLINE: Duration = Duration::from_secs(30);

/// signal(7).
const SIGBUS: i32 = rustix::process::Signal::BUS.as_raw();

/// Why a saved guest does not go on.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RestoreError<V: std::error::Error + 'static, R: std::error::Error + 'static> {
    #[error(transparent)]
    Vmm(V),
    #[error("the spare machine cannot be adopted")]
    Adopt(#[source] io::Error),
    #[error("the restored guest did not go on: {0}")]
    Ended(Box<Exit>),
    #[error("the guest cannot be restored")]
    Refused(#[source] QmpError),
    #[error("the restored guest did not answer")]
    Ready(#[source] R),
    #[error("the restored guest did not answer within {0:?} of running")]
    Silent(Duration),
}

/// Why there is no template.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SaveError<V: std::error::Error + 'static, R: std::error::Error + 'static> {
    #[error(transparent)]
    Boot(#[from] BootError<V, R>),
    #[error("save the guest")]
    Monitor(#[source] QmpError),
    #[error("save the guest: not done within {0:?}")]
    Slow(Duration),
    #[error("write the template")]
    Write(#[source] io::Error),
}

/// Continue the guest of `template` as `machine`, until `ready` has had its answer: it is called with the process's pid and
/// the control link. `deadline` is in processor time of the VMM.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore<V: Vmm, T, R: std::error::Error + 'static>(
    vmm: &V,
    machine: &Machine,
    (template, accelerator): (&Template, Accelerator),
    deadline: Duration,
    mut ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(Running, T), RestoreError<V::Error, R>> {
    let started = vmm.start(machine, accelerator, Origin::Template(template)).await.map_err(RestoreError::Vmm)?;
    go_on(started, deadline, &mut ready).await
}

/// Go on with a spare, on another disk if one is to take the place of one it has, until `ready` has had its answer, as for
/// [`restore`].
///
/// # Errors
/// [`RestoreError`]; the machine has ended then.
pub async fn adopt<T, R: std::error::Error + 'static>(
    spare: Spare,
    console_log: Option<ConsoleLog>,
    disk: Option<(u32, &Disk)>,
    deadline: Duration,
    mut ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(Running, T), RestoreError<QemuError, R>> {
    let pid = spare.pid();
    let (mut running, control) = spare.adopt(console_log).map_err(RestoreError::Adopt)?;
    tracing::debug!(pid, "spare adopted");
    if let Some((number, disk)) = disk {
        running.replace_disk(number as usize, disk).await.map_err(RestoreError::Vmm)?;
    }
    let monitor = running.monitor.take();
    go_on(Started { running, control, monitor }, deadline, &mut ready).await
}

async fn go_on<V: std::error::Error + 'static, T, R: std::error::Error + 'static>(
    started: Started,
    deadline: Duration,
    ready: &mut impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(Running, T), RestoreError<V, R>> {
    match attend(started, deadline, ready).await.map_err(RestoreError::Ready)? {
        Attempt::Ready(running, ready) => Ok((running, ready)),
        Attempt::Ended(exit) => Err(RestoreError::Ended(Box::new(exit))),
        Attempt::Refused(reason) => Err(RestoreError::Refused(reason)),
        Attempt::Silent(_) => Err(RestoreError::Silent(deadline)),
    }
}

/// Finish a template: boot `machine`, one of whose disks is the template's own, until `park` has its guest where every
/// sandbox of this shape will begin, and save it. `layer_size` bytes are kept of that disk.
///
/// # Errors
/// [`SaveError`]; nothing is left then.
pub async fn save<V: Vmm, T, R: std::error::Error + 'static>(
    vmm: &V,
    unfinished: Unfinished,
    (machine, accelerator): (&Machine, Accelerator),
    layer_size: u64,
    mut park: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(), SaveError<V::Error, R>> {
    let (memory, state) =
        unfinished.memory(machine.memory_mb).and_then(|m| Ok((m, unfinished.state()?))).map_err(SaveError::Write)?;
    let started = vmm.start(machine, accelerator, Origin::Draft(&memory)).await.map_err(BootError::Vmm)?;
    // What `park` leaves is kept: a link that closes is news for the guest, which would be saved with it.
    let (running, _parked) = match attend(started, PARK_DEADLINE, &mut park).await.map_err(BootError::Ready)? {
        Attempt::Ready(running, parked) => (running, parked),
        // A page of its memory that cannot be written: the kernel knows no other way to tell (mmap(2)).
        Attempt::Ended(Exit { process: ProcessEnd::Signal(SIGBUS), .. }) => {
            return Err(SaveError::Write(io::ErrorKind::StorageFull.into()));
        }
        Attempt::Ended(exit) => return Err(BootError::Ended(Box::new(exit)).into()),
        Attempt::Refused(reason) => return Err(BootError::Refused(reason).into()),
        Attempt::Silent(_) => return Err(BootError::Silent(PARK_DEADLINE).into()),
    };
    let saved = tokio::time::timeout(SAVE_DEADLINE, running.save(&state)).await;
    saved.map_err(|_| SaveError::Slow(SAVE_DEADLINE))?.map_err(SaveError::Monitor)?;
    let tsc_khz = vmm.tsc_khz();
    let published = tokio::task::spawn_blocking(move || unfinished.publish(tsc_khz, layer_size)).await;
    published.map_err(io::Error::from).flatten().map_err(SaveError::Write)
}
