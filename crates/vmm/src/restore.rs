//! A saved guest goes on: how it is saved, and how one machine after the other is made of it.
//!
//! ```text
//! save     boot with memory in a file ─> park ─> stop, write the state ─> publish        once for each shape
//! go on    the machine that was saved, on other disks ─> ready                          the first time
//! restore  the same command line on a private view of that memory ─> ready              every other time
//! adopt    one that somebody else has restored, on another disk ─> ready                where there is one
//! ```
//!
//! Called by `sandbox`. Invariant: as with [`crate::boot()`], either a guest is ready or no process of an attempt is left; and a
//! template appears only when it is whole.

use std::{fs::File, io, os::unix::net::UnixStream, time::Duration};

use rustix::fs::{MemfdFlags, memfd_create};
use thiserror::Error;

use crate::{
    Accelerator, ConsoleLog, Disk, Machine, Origin, Running, Spare, Started, Vmm,
    boot::{Attempt, BootError, attend},
    qemu::{QemuError, QmpError},
    running::Exit,
    template::{Template, Unfinished},
};

/// How long a guest may run until it is ready to be saved: it boots, and rehearses what it will do.
const PARK_DEADLINE: Duration = Duration::from_secs(25);

/// How long QEMU may take to put another file under a disk: some milliseconds.
const REPLACE_DEADLINE: Duration = Duration::from_secs(10);

/// How long QEMU may take to write a stopped machine's state, of some 60 kB.
const SAVE_DEADLINE: Duration = Duration::from_secs(30);

/// Why a saved guest does not go on.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RestoreError<V: std::error::Error + 'static, R: std::error::Error + 'static> {
    #[error(transparent)]
    Vmm(V),
    #[error("the machine cannot be taken over")]
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

/// Go on with a spare, with `disks` in place of those of these numbers, until `ready` has had its answer, as for [`restore`].
///
/// # Errors
/// [`RestoreError`]; the machine has ended then.
pub async fn adopt<T, R: std::error::Error + 'static>(
    spare: Spare,
    console_log: Option<ConsoleLog>,
    disks: &[(u32, &Disk)],
    deadline: Duration,
    ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(Running, T), RestoreError<QemuError, R>> {
    let (running, control) = spare.adopt(console_log).map_err(RestoreError::Adopt)?;
    tracing::debug!(pid = running.pid(), "spare adopted");
    go_on_with(running, control, disks, deadline, ready).await
}

async fn go_on_with<T, R: std::error::Error + 'static>(
    mut running: Running,
    control: UnixStream,
    disks: &[(u32, &Disk)],
    deadline: Duration,
    mut ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(Running, T), RestoreError<QemuError, R>> {
    for (number, disk) in disks {
        let replaced = tokio::time::timeout(REPLACE_DEADLINE, running.replace_disk(*number as usize, disk)).await;
        replaced.map_err(|_| RestoreError::Silent(REPLACE_DEADLINE))?.map_err(RestoreError::Vmm)?;
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

/// Finish a template: boot `machine`, one of whose disks is `layer`, until `park` has its guest where every sandbox of this
/// shape will begin, and save it. `layer_size` bytes are kept of that disk. Also returns the machine, and what `park` left.
///
/// # Errors
/// [`SaveError`]; nothing is left then.
pub async fn save<V: Vmm, T, R: std::error::Error + 'static>(
    vmm: &V,
    unfinished: Unfinished,
    (machine, accelerator): (&Machine, Accelerator),
    (layer, layer_size): (File, u64),
    mut park: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<(Saved, T), SaveError<V::Error, R>> {
    let (memory, state) =
        guest_memory(machine.memory_mb).and_then(|m| Ok((m, unfinished.state()?))).map_err(SaveError::Write)?;
    let started = vmm.start(machine, accelerator, Origin::Draft(&memory)).await.map_err(BootError::Vmm)?;
    // What `park` leaves is kept: a link that closes is news for the guest, which would be saved with it.
    let (mut running, parked) = match attend(started, PARK_DEADLINE, &mut park).await.map_err(BootError::Ready)? {
        Attempt::Ready(running, parked) => (running, parked),
        Attempt::Ended(exit) => return Err(BootError::Ended(Box::new(exit)).into()),
        Attempt::Refused(reason) => return Err(BootError::Refused(reason).into()),
        Attempt::Silent(_) => return Err(BootError::Silent(PARK_DEADLINE).into()),
    };
    let saved = tokio::time::timeout(SAVE_DEADLINE, running.save(&state)).await;
    saved.map_err(|_| SaveError::Slow(SAVE_DEADLINE))?.map_err(SaveError::Monitor)?;
    let copies = unfinished.copies().map_err(SaveError::Write)?;
    // What is under construction stays here: it goes if nobody waits any more, which the thread would not notice.
    let filled = tokio::task::spawn_blocking(move || copies.fill(&memory, &layer, layer_size)).await;
    let contents = filled.map_err(io::Error::from).flatten();
    let published = contents.and_then(|contents| unfinished.publish(contents, vmm.tsc_khz()));
    published.map_err(SaveError::Write)?;
    Ok((Saved { running }, parked))
}

/// Memory of a guest that is to be saved: a file, for its VMM writes none of it to the state, and none of a disk's.
fn guest_memory(size_mb: u32) -> io::Result<File> {
    let file = File::from(memfd_create("guest-memory", MemfdFlags::CLOEXEC)?);
    file.set_len(u64::from(size_mb) * 1024 * 1024)?;
    Ok(file)
}

/// A machine that was saved and stands still since. Dropping it ends it.
#[derive(Debug)]
pub struct Saved {
    running: Running,
}

impl Saved {
    /// Go on with it as [`restore`] goes on with the guest that was saved, which saves whoever has just made a template from
    /// starting a second machine. `control` is the host's end of its control link. Where the machine has a stand-in for a disk, one
    /// of `disks` takes its place.
    ///
    /// # Errors
    /// [`RestoreError`]; the machine has ended then.
    pub async fn go_on<T, R: std::error::Error + 'static>(
        self,
        control: UnixStream,
        console_log: Option<ConsoleLog>,
        disks: &[(u32, &Disk)],
        deadline: Duration,
        ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
    ) -> Result<(Running, T), RestoreError<QemuError, R>> {
        let mut running = self.running.log_console(console_log).map_err(RestoreError::Adopt)?;
        running.go_on().await.map_err(RestoreError::Refused)?;
        go_on_with(running, control, disks, deadline, ready).await
    }
}
