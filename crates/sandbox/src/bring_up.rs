//! From a machine's description to one whose guest is the sandbox: a spare is taken over, a saved guest goes on, or one is booted
//! where neither can be.
//!
//! Called by `launch`. Invariant: what was given up has left nothing that the next attempt could meet.

use std::{
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use matchlock_model::{SandboxSpec, one_line};
use matchlock_net::namespace::Unfurnished;
use matchlock_vmm::{
    Booted, Deadlines, Fallback, Machine, Nic, Policy, RestoreError, Running, adopt, boot, qemu::Qemu,
};
use matchlock_wire::{Request, Start};

use crate::{
    ask::{AskError, ask},
    launch::{LaunchError, random},
    link::{Link, LinkError},
    network::{Cabling, GatewayError},
    start::{LOWER, UPPER},
    template::{self, First, NoTemplate, Ready},
    timeline::Timeline,
    warm::Adoptable,
};

/// How long a booted guest may take to mount its disks and become the sandbox. Emulated, on a loaded machine, it is
/// a second or two.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// How long a restored guest may run until it is the sandbox, in processor time of its VMM: a fifth of a second is usual.
pub(crate) const RESTORE_DEADLINE: Duration = Duration::from_secs(6);

/// What is needed for it.
pub(crate) struct BringUp<'a, S, L> {
    pub(crate) vmm: &'a Qemu,
    pub(crate) machine: Arc<Machine>,
    /// The network link, if the machine has an interface.
    pub(crate) cabling: Option<Cabling>,
    pub(crate) spec: &'a SandboxSpec,
    /// What the guest is told, but for its clock and its entropy.
    pub(crate) start: &'a Start,
    pub(crate) timeline: &'a Timeline,
    /// Is told the pid of each process of the VMM as soon as there is one.
    pub(crate) started: S,
    /// Makes the writable layer with which the guest of a template goes on, or an empty one; as if there had been none.
    pub(crate) make_layer: L,
}

/// A machine whose guest is the sandbox.
pub(crate) struct Up {
    pub(crate) running: Running,
    pub(crate) link: Link,
    pub(crate) notices: Vec<String>,
    pub(crate) cabling: Option<Cabling>,
    /// The way to whoever had kept it ready, who leaves it alone for a moment.
    pub(crate) pool: Option<tokio::net::UnixStream>,
}

impl Up {
    /// What was tried before has left these words.
    fn after(mut self, notices: Vec<String>) -> Self {
        self.notices.splice(..0, notices);
        self
    }
}

impl<S, L> BringUp<'_, S, L>
where
    S: FnMut(i32) -> Result<(), LaunchError>,
    L: FnMut(Option<&Ready>) -> Result<(), LaunchError>,
{
    /// Take over the spare if there is one, or go on with the machine that was just saved, or continue the saved guest, or boot.
    pub(crate) async fn run(
        mut self,
        mut template: Option<Result<Ready, NoTemplate>>,
        spare: Option<Adoptable>,
    ) -> Result<Up, LaunchError> {
        let mut notices = Vec::new();
        if let Some(Ok(template)) = &mut template {
            if let Some(spare) = spare {
                let of_no_use =
                    |reason: &dyn std::error::Error| format!("the spare sandbox was of no use: {}", one_line(reason));
                match self.take_over(spare, template).await {
                    // It may refuse for a reason of its own.
                    Ok(Err(LaunchError::Guest(reason))) => notices.push(of_no_use(&reason)),
                    Ok(up) => return self.with_cabling(up),
                    Err(reason) => notices.push(of_no_use(&reason)),
                }
            }
            // Where it cannot have these disks, its copies cannot either, and say so.
            if let Some(first) = template.first.take().filter(|_| template::fits(&self.machine).is_ok()) {
                match self.go_on(first, template).await {
                    Ok(up) => return self.with_cabling(up).map(|up| up.after(notices)),
                    Err(reason) => notices.push(format!("the saved machine did not go on: {}", one_line(&reason))),
                }
            }
        }
        if let Some(template) = template {
            match self.continue_saved(template).await {
                Ok(up) => return self.with_cabling(up).map(|up| up.after(notices)),
                Err(reason) => notices.push(format!("starting cold: {}", one_line(&reason))),
            }
        }
        (self.make_layer)(None)?;
        self.connect().await?;
        let mut recorded = Ok(());
        let greet = async |pid, stream| {
            recorded = (self.started)(pid);
            Link::to_guest(tokio::net::UnixStream::from_std(stream)?).await
        };
        let booted = boot(self.vmm, &self.machine, Policy::Auto, Deadlines::default(), greet).await?;
        recorded?;
        let Booted { running, ready: link, fallback, .. } = booted;
        notices.extend(fallback.iter().map(emulated));
        let silent = |_| LaunchError::GuestSilent(START_DEADLINE.as_secs());
        tokio::time::timeout(START_DEADLINE, self.become_sandbox(&link)).await.map_err(silent)??;
        self.with_cabling(Ok(Up { running, link, notices, cabling: None, pool: None }))
    }

    /// Have the machine's interface lead somewhere before it is started. The attempts after a first share it.
    async fn connect(&mut self) -> Result<(), LaunchError> {
        if let (Some(Nic { tap: None }), Some(cabling)) = (&self.machine.nic, &mut self.cabling) {
            let nic = Some(cabling.interface().await.map_err(GatewayError::from)?);
            self.timeline.mark("network link made");
            self.machine = Arc::new(Machine { nic, ..Machine::clone(&self.machine) });
        }
        Ok(())
    }

    /// The machine brings its link along.
    fn plug_in(&mut self, namespace: Option<Unfurnished>) {
        if let (Some(namespace), Some(cabling)) = (namespace, &mut self.cabling) {
            cabling.plug_in(namespace);
        }
    }

    fn with_cabling(self, up: Result<Up, LaunchError>) -> Result<Up, LaunchError> {
        up.map(|up| Up { cabling: self.cabling, ..up })
    }

    async fn take_over(
        &mut self,
        Adoptable { spare, namespace, has_image, pool }: Adoptable,
        template: &Ready,
    ) -> Result<Result<Up, LaunchError>, NoTemplate> {
        self.timeline.mark("spare sandbox found");
        self.plug_in(namespace);
        let machine = Arc::clone(&self.machine);
        let image = (LOWER, &machine.disks[LOWER as usize]);
        let console = machine.console_log.clone();
        let disks = if has_image { &[][..] } else { &[image] };
        let become_it = async |pid, stream| self.become_it(pid, Link::to_warmed, stream).await;
        let adopted = adopt(spare, console, disks, RESTORE_DEADLINE, become_it).await?;
        Ok(up(template, adopted).map(|up| Up { pool: Some(pool), ..up }))
    }

    /// With the machine that was saved for the template just now.
    async fn go_on(
        &mut self,
        First { saved, link, namespace }: First,
        template: &Ready,
    ) -> Result<Result<Up, LaunchError>, NoTemplate> {
        self.plug_in(namespace);
        let (machine, deadline) = (Arc::clone(&self.machine), self.restore_deadline());
        let control = link.release().await.map_err(RestoreError::Ready)?;
        // It has a writable layer of its own.
        let disks: Vec<_> = (0..).zip(&machine.disks).filter(|(number, _)| *number != UPPER).collect();
        let become_it = async |pid, stream| self.become_it(pid, Link::to_restored, stream).await;
        let gone_on = saved.go_on(control, machine.console_log.clone(), &disks, deadline, become_it).await?;
        Ok(up(template, gone_on))
    }

    async fn continue_saved(
        &mut self,
        template: Result<Ready, NoTemplate>,
    ) -> Result<Result<Up, LaunchError>, NoTemplate> {
        let template = template?;
        if let Err(error) = (self.make_layer)(Some(&template)) {
            return Ok(Err(error));
        }
        if let Err(error) = self.connect().await {
            return Ok(Err(error));
        }
        let (vmm, machine, deadline) = (self.vmm, Arc::clone(&self.machine), self.restore_deadline());
        let become_it = async |pid, stream| self.become_it(pid, Link::to_restored, stream).await;
        let restored = template.restore(vmm, &machine, deadline, become_it).await?;
        Ok(up(&template, restored))
    }

    /// A file system of the user's may have to be repaired when it is mounted.
    const fn restore_deadline(&self) -> Duration {
        if self.spec.extra_disks.is_empty() { RESTORE_DEADLINE } else { START_DEADLINE }
    }

    async fn become_sandbox(&self, link: &Link) -> Result<(), LaunchError> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let timings = self.timeline.asks_guest();
        let message = Start { clock_ns, entropy: random()?, timings, ..self.start.clone() };
        let times = ask(link, Request::Start(Box::new(message))).await?;
        self.timeline.guest(&times);
        Ok(())
    }

    /// Its error is the link's; what else goes wrong is the value's.
    async fn become_it(
        &mut self,
        pid: i32,
        link: fn(tokio::net::UnixStream) -> Link,
        stream: UnixStream,
    ) -> Result<(Link, Result<(), LaunchError>), LinkError> {
        let recorded = (self.started)(pid);
        let link = link(tokio::net::UnixStream::from_std(stream)?);
        match self.become_sandbox(&link).await {
            Err(LaunchError::Guest(AskError::Link(broken))) => Err(broken),
            became => Ok((link, recorded.and(became))),
        }
    }
}

/// What the guest itself refuses, it would refuse as well if it were booted: that is an error of another kind than that it does
/// not go on.
fn up(
    template: &Ready,
    (running, (link, became)): (Running, (Link, Result<(), LaunchError>)),
) -> Result<Up, LaunchError> {
    let notices = template.fallback.iter().map(emulated).collect();
    became.map(|()| Up { running, link, notices, cabling: None, pool: None })
}

fn emulated(reason: &Fallback) -> String {
    format!("using software emulation: {reason}")
}
