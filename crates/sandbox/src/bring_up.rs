//! From a machine's description to one whose guest is the sandbox: a saved guest goes on, or one is booted where that cannot
//! be.
//!
//! Called by `launch`. Invariant: what was given up has left nothing that the next attempt could meet.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use matchlock_model::{SandboxSpec, one_line};
use matchlock_vmm::{Booted, Deadlines, Fallback, Machine, Policy, Running, boot, qemu::Qemu};
use matchlock_wire::{Request, Start};

use crate::{
    ask::{AskError, ask},
    launch::{LaunchError, random},
    link::{Link, LinkError},
    start,
    template::{NoTemplate, Ready},
    timeline::Timeline,
};

/// How long a booted guest may take to mount its disks and become the sandbox. Emulated, on a loaded machine, it is
/// a second or two.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// How long a restored guest may run until it is the sandbox, in processor time of its VMM: a fifth of a second is usual.
const RESTORE_DEADLINE: Duration = Duration::from_secs(6);

/// What is needed for it.
pub(crate) struct BringUp<'a, S, R> {
    pub(crate) vmm: &'a Qemu,
    pub(crate) machine: &'a Machine,
    pub(crate) spec: &'a SandboxSpec,
    pub(crate) timeline: &'a Timeline,
    /// Is told the pid of each process of the VMM as soon as there is one.
    pub(crate) started: S,
    /// Makes the writable layer as if it had never been used.
    pub(crate) renew: R,
}

/// A machine whose guest is the sandbox.
pub(crate) struct Up {
    pub(crate) running: Running,
    pub(crate) link: Link,
    pub(crate) notices: Vec<String>,
}

impl<S, R> BringUp<'_, S, R>
where
    S: FnMut(i32) -> Result<(), LaunchError>,
    R: FnOnce() -> Result<(), LaunchError>,
{
    /// Continue the saved guest if there is one, or boot.
    pub(crate) async fn run(mut self, template: Option<Result<Ready, NoTemplate>>) -> Result<Up, LaunchError> {
        let mut notices = Vec::new();
        if let Some(template) = template {
            match self.continue_saved(template).await {
                Ok(up) => return up,
                Err(reason) => notices.push(format!("starting cold: {}", one_line(&reason))),
            }
            (self.renew)()?;
        }
        let mut recorded = Ok(());
        let greet = async |pid, stream| {
            recorded = (self.started)(pid);
            Link::to_guest(tokio::net::UnixStream::from_std(stream)?).await
        };
        let booted = boot(self.vmm, self.machine, Policy::Auto, Deadlines::default(), greet).await?;
        recorded?;
        let Booted { running, ready: link, fallback, .. } = booted;
        notices.extend(fallback.iter().map(emulated));
        let silent = |_| LaunchError::GuestSilent(START_DEADLINE.as_secs());
        tokio::time::timeout(START_DEADLINE, become_sandbox(&link, self.spec, self.timeline))
            .await
            .map_err(silent)??;
        Ok(Up { running, link, notices })
    }

    /// What the guest itself refuses, it would refuse as well if it were booted: that is the inner error.
    async fn continue_saved(
        &mut self,
        template: Result<Ready, NoTemplate>,
    ) -> Result<Result<Up, LaunchError>, NoTemplate> {
        let template = template?;
        // A file system of the user's may have to be repaired when it is mounted.
        let deadline = if self.spec.extra_disks.is_empty() { RESTORE_DEADLINE } else { START_DEADLINE };
        let become_it = async |pid, stream: UnixStream| -> Result<_, LinkError> {
            let recorded = (self.started)(pid);
            let link = Link::to_restored(tokio::net::UnixStream::from_std(stream)?);
            match become_sandbox(&link, self.spec, self.timeline).await {
                Err(LaunchError::Guest(AskError::Link(broken))) => Err(broken),
                became => Ok((link, recorded.and(became))),
            }
        };
        let (running, (link, became)) = template.restore(self.vmm, self.machine, deadline, become_it).await?;
        let notices = template.fallback.iter().map(emulated).collect();
        Ok(became.map(|()| Up { running, link, notices }))
    }
}

fn emulated(reason: &Fallback) -> String {
    format!("using software emulation: {reason}")
}

async fn become_sandbox(link: &Link, spec: &SandboxSpec, timeline: &Timeline) -> Result<(), LaunchError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    let message = Start { timings: timeline.asks_guest(), ..start::message(spec, clock_ns, random()?) };
    let times = ask(link, Request::Start(Box::new(message))).await?;
    timeline.guest(&times);
    Ok(())
}
