//! A saved guest goes on: how it is saved, and how one machine after the other is made of it.
//!
//! ```text
//! save     boot with memory in a file ─> park ─> stop, write the state ─> publish        once for each shape
//! restore  the same command line on a private view of that memory ─> ready              every time
//! ```
//!
//! Called by `sandbox`. Invariant: as with [`crate::boot()`], either a guest is ready or no process of an attempt is left; and a
//! template appears only when it is whole.

use std::{future::Future, io, os::unix::net::UnixStream, time::Duration};

use thiserror::Error;

use crate::{
    Accelerator, Machine, Origin, Running, Vmm,
    boot::{Attempt, BootError, attend},
    qemu::QmpError,
    running::Exit,
    template::{Recipe, Template, TemplateError, Templates},
};

/// How long a restored guest may run until it answers, in processor time of its VMM. A tenth of a second is usual.
const RESTORE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a guest may run until it is ready to be saved: it boots, and rehearses what it will do.
const PARK_DEADLINE: Duration = Duration::from_secs(25);

/// How long QEMU may take to write a stopped machine's state, of some 60 kB.
const SAVE_DEADLINE: Duration = Duration::from_secs(30);

/// Why a saved guest does not go on.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RestoreError<V: std::error::Error + 'static, R: std::error::Error + 'static> {
    #[error(transparent)]
    Vmm(V),
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
    Template(#[from] TemplateError),
    #[error(transparent)]
    Boot(#[from] BootError<V, R>),
    #[error("save the guest")]
    Monitor(#[source] QmpError),
    #[error("save the guest: not done within {0:?}")]
    Slow(Duration),
    #[error("write the template")]
    Write(#[source] io::Error),
}

/// Continue the guest of `template` as `machine`, until `ready` has had its answer.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore<V, T, R, F>(
    vmm: &V,
    machine: &Machine,
    accelerator: Accelerator,
    template: &Template,
    ready: impl FnOnce(UnixStream) -> F,
) -> Result<(Running, T), RestoreError<V::Error, R>>
where
    V: Vmm,
    R: std::error::Error + 'static,
    F: Future<Output = Result<T, R>>,
{
    let started = vmm.start(machine, accelerator, Origin::Template(template)).await.map_err(RestoreError::Vmm)?;
    match attend(started, RESTORE_DEADLINE, ready).await.map_err(RestoreError::Ready)? {
        Attempt::Ready(running, ready) => Ok((running, ready)),
        Attempt::Ended(exit) => Err(RestoreError::Ended(Box::new(exit))),
        Attempt::Refused(reason) => Err(RestoreError::Refused(reason)),
        Attempt::Silent(_) => Err(RestoreError::Silent(RESTORE_DEADLINE)),
    }
}

/// Make the template for `machine`: boot it until `park` has its guest where every sandbox of this shape will begin, and
/// save it. Waits for others who make one; if that was this one, there is nothing to do.
///
/// # Errors
/// [`SaveError`]; nothing is left then.
pub async fn save<V, T, R, F>(
    vmm: &V,
    templates: &Templates,
    (recipe, accelerator): (&Recipe, Accelerator),
    machine: &Machine,
    park: impl FnOnce(UnixStream) -> F,
) -> Result<(), SaveError<V::Error, R>>
where
    V: Vmm,
    R: std::error::Error + 'static,
    F: Future<Output = Result<T, R>>,
{
    let unfinished = blocking({
        let (templates, recipe, tsc_khz) = (templates.clone(), recipe.clone(), vmm.tsc_khz());
        move || {
            let unfinished = templates.begin(&recipe)?;
            // Somebody else may have been faster.
            Ok(templates.find(&recipe, tsc_khz).is_err().then_some(unfinished))
        }
    });
    let Some(unfinished) = unfinished.await.map_err(SaveError::Write)?.map_err(SaveError::Template)? else {
        return Ok(());
    };
    let (memory, state) =
        unfinished.memory(machine.memory_mb).and_then(|m| Ok((m, unfinished.state()?))).map_err(SaveError::Write)?;
    let started = vmm.start(machine, accelerator, Origin::Draft(&memory)).await.map_err(BootError::Vmm)?;
    // What `park` leaves is kept: a link that closes is news for the guest, which would be saved with it.
    let (running, _parked) = match attend(started, PARK_DEADLINE, park).await.map_err(BootError::Ready)? {
        Attempt::Ready(running, parked) => (running, parked),
        Attempt::Ended(exit) => return Err(BootError::Ended(Box::new(exit)).into()),
        Attempt::Refused(reason) => return Err(BootError::Refused(reason).into()),
        Attempt::Silent(_) => return Err(BootError::Silent(PARK_DEADLINE).into()),
    };
    let saved = tokio::time::timeout(SAVE_DEADLINE, running.save(&state)).await;
    saved.map_err(|_| SaveError::Slow(SAVE_DEADLINE))?.map_err(SaveError::Monitor)?;
    let tsc_khz = vmm.tsc_khz();
    blocking(move || unfinished.publish(tsc_khz)).await.flatten().map_err(SaveError::Write)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}
