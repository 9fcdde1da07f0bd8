//! From a [`Machine`] to a guest that answers: the one place that decides about accelerators and second attempts.
//!
//! Invariant: when [`boot`] returns, either a guest is ready, or no process of an attempt is left.

use std::{
    future::Future,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    Origin, Running, Started, Vmm,
    accel::{self, Accelerator, Fallback, Policy},
    machine::Machine,
    qemu::{Qmp, QmpError},
    running::Exit,
};

/// How long a guest may run until it is ready, for each way of running it, in processor time of its VMM: a busy host makes
/// it wait, and is no reason to give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Under KVM: half a second is usual, so more than this means that it does not run at all.
    pub kvm: Duration,
    /// Under emulation: two seconds are usual.
    pub tcg: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { kvm: Duration::from_secs(8), tcg: Duration::from_secs(15) }
    }
}

/// So many times its deadline a guest may take by the clock: it may have stopped without using the processor.
const MAX_STRETCH: u32 = 5;

/// How long a machine whose link broke may take to be gone.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// Attempts under emulation: an emulated kernel's calibration of its timers can fail on a busy host.
const TCG_ATTEMPTS: usize = 3;

/// A guest that is ready.
#[derive(Debug)]
pub struct Booted<T> {
    /// Its machine.
    pub running: Running,
    /// What the readiness check made of its control link.
    pub ready: T,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Why that is not KVM, if it is not and might have been.
    pub fallback: Option<Fallback>,
}

/// Why no guest is ready.
#[derive(Debug, Error)]
pub enum BootError<V: std::error::Error + 'static, R: std::error::Error + 'static> {
    /// KVM was demanded, and cannot be used.
    #[error("KVM cannot be used")]
    NoKvm(#[source] Fallback),
    /// The VMM cannot be started.
    #[error(transparent)]
    Vmm(V),
    /// The machine ended before its guest was ready.
    #[error("the guest did not start: {0}")]
    Ended(Box<Exit>),
    /// The guest is there, and said something wrong.
    #[error("the guest did not start")]
    Ready(#[source] R),
    /// The VMM would not do what it was told.
    #[error("the guest did not start")]
    Refused(#[source] QmpError),
    /// It never answered, and there was one attempt only.
    #[error("the guest was not ready after running for {0:?}")]
    Silent(Duration),
    /// It never answered.
    #[error("the guest was not ready after running for {deadline:?}, {attempts} times: {last_line}")]
    NotReady {
        /// Deadline of one attempt, in processor time.
        deadline: Duration,
        /// How many there were.
        attempts: usize,
        /// The last line on its console.
        last_line: String,
    },
}

/// Start `machine` until its guest is ready, which `ready` decides: it is called for each process that is started, with its
/// pid and the control link.
///
/// # Errors
/// [`BootError`].
pub async fn boot<V: Vmm, T, R: std::error::Error + 'static>(
    vmm: &V,
    machine: &Machine,
    policy: Policy,
    deadlines: Deadlines,
    ready: impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<Booted<T>, BootError<V::Error, R>> {
    let kvm = match policy {
        Policy::Only(Accelerator::Tcg) => None,
        Policy::Only(Accelerator::Kvm) => Some(accel::kvm()),
        Policy::Auto => Some(vmm.kvm(machine)),
    };
    Boot { vmm, machine, deadlines, ready }.run(policy, kvm).await
}

/// A boot under way.
struct Boot<'a, V, C> {
    vmm: &'a V,
    machine: &'a Machine,
    deadlines: Deadlines,
    ready: C,
}

impl<V, T, R, C> Boot<'_, V, C>
where
    V: Vmm,
    R: std::error::Error + 'static,
    C: AsyncFnMut(i32, UnixStream) -> Result<T, R>,
{
    /// Try what `policy` allows; `kvm` is what is known about KVM if it is wanted.
    async fn run(
        mut self,
        policy: Policy,
        kvm: Option<Result<(), Fallback>>,
    ) -> Result<Booted<T>, BootError<V::Error, R>> {
        let deadlines = self.deadlines;
        let mut fallback = None;
        let tried = kvm == Some(Ok(()));
        match kvm {
            Some(Ok(())) => match self.attempt(Accelerator::Kvm, deadlines.kvm).await? {
                Attempt::Ready(running, ready) => {
                    return Ok(Booted { running, ready, accelerator: Accelerator::Kvm, fallback: None });
                }
                Attempt::Ended(exit) => fallback = Some(Fallback::Ended(exit.to_string())),
                Attempt::Refused(reason) => fallback = Some(Fallback::Ended(reason.to_string())),
                Attempt::Silent(_) => fallback = Some(Fallback::NotReady(deadlines.kvm)),
            },
            Some(Err(reason)) => fallback = Some(reason),
            None => {}
        }
        if let (Policy::Only(Accelerator::Kvm), Some(reason)) = (policy, &fallback) {
            return Err(BootError::NoKvm(reason.clone()));
        }
        let mut last_line = String::new();
        for _ in 0..TCG_ATTEMPTS {
            match self.attempt(Accelerator::Tcg, deadlines.tcg).await? {
                Attempt::Ready(running, ready) => {
                    if let Some(reason) = fallback.as_ref().filter(|_| tried) {
                        self.vmm.give_up_kvm(self.machine, reason);
                    }
                    return Ok(Booted { running, ready, accelerator: Accelerator::Tcg, fallback });
                }
                // Not a matter of luck: a missing file, a panic.
                Attempt::Ended(exit) => return Err(BootError::Ended(Box::new(exit))),
                Attempt::Refused(reason) => return Err(BootError::Refused(reason)),
                Attempt::Silent(exit) => {
                    tracing::warn!("the guest was not ready in time: {exit}");
                    last_line = exit.last_console_line().unwrap_or_else(|| "nothing on its console".to_owned());
                }
            }
        }
        Err(BootError::NotReady { deadline: deadlines.tcg, attempts: TCG_ATTEMPTS, last_line })
    }

    async fn attempt(
        &mut self,
        accelerator: Accelerator,
        deadline: Duration,
    ) -> Result<Attempt<T>, BootError<V::Error, R>> {
        let started = self.vmm.start(self.machine, accelerator, Origin::Kernel).await.map_err(BootError::Vmm)?;
        attend(started, deadline, &mut self.ready).await.map_err(BootError::Ready)
    }
}

/// How a machine's first moments went.
pub(crate) enum Attempt<T> {
    Ready(Running, T),
    Ended(Exit),
    Silent(Exit),
    /// The VMM would not do what it was told.
    Refused(QmpError),
}

/// Stay with a machine until its guest is ready, or never will be. Its error is `ready`'s, of a machine that goes on.
pub(crate) async fn attend<T, R>(
    started: Started,
    deadline: Duration,
    ready: &mut impl AsyncFnMut(i32, UnixStream) -> Result<T, R>,
) -> Result<Attempt<T>, R> {
    let Started { mut running, control, mut monitor } = started;
    let outcome = tokio::select! {
        // First, because a link that breaks means mostly that the machine has ended, and that says more.
        biased;
        exit = running.exited() => Err(exit),
        outcome = within(deadline, &running, ready(running.pid(), control)) => Ok(outcome),
        reason = refusal(&mut monitor) => return Ok(Attempt::Refused(reason)),
    };
    let ended = |exit: std::io::Result<Exit>| {
        exit.unwrap_or_else(|e| Exit {
            process: crate::ProcessEnd::Signal(0),
            errors: e.to_string(),
            console: String::new(),
        })
    };
    match outcome {
        Ok(Some(Ok(value))) => {
            // A guest that answers has behind it what its VMM was told to do: the answers are there.
            let settled = match &mut monitor {
                Some(monitor) => monitor.settle().await,
                None => Ok(()),
            };
            match settled {
                Ok(()) => {
                    running.monitor = monitor;
                    Ok(Attempt::Ready(running, value))
                }
                Err(QmpError::Closed) => Ok(Attempt::Ended(ended(running.kill().await))),
                Err(refused) => Ok(Attempt::Refused(refused)),
            }
        }
        Ok(Some(Err(wrong))) => {
            // The link can break a moment before the process is gone.
            match tokio::time::timeout(LAST_WORDS, running.exited()).await {
                Ok(exit) => Ok(Attempt::Ended(ended(exit))),
                Err(_) => Err(wrong),
            }
        }
        Ok(None) => Ok(Attempt::Silent(ended(running.kill().await))),
        Err(exit) => Ok(Attempt::Ended(ended(exit))),
    }
}

/// What the VMM would not do; for ever nothing if it does everything.
async fn refusal(monitor: &mut Option<Box<Qmp>>) -> QmpError {
    if let Some(monitor) = monitor {
        match monitor.settle().await {
            // A machine that has ended says so itself.
            Ok(()) | Err(QmpError::Closed) => {}
            Err(refused) => return refused,
        }
    }
    std::future::pending().await
}

/// What `work` results in, or `None` if the machine has run for `deadline` before that.
async fn within<T>(deadline: Duration, running: &Running, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let since = Instant::now();
    let mut left = deadline;
    while !left.is_zero() && since.elapsed() < deadline * MAX_STRETCH {
        if let Ok(done) = tokio::time::timeout(left, &mut work).await {
            return Some(done);
        }
        left = deadline.saturating_sub(running.processor_time().unwrap_or(deadline));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{self, Read},
        os::fd::OwnedFd,
        path::Path,
        process::{Command, Stdio},
        sync::Mutex,
    };

    use super::*;
    use crate::{process::Process, template::Recipe};

    /// Shell scripts in place of machines, one for each accelerator; their standard output is the guest's link.
    struct Scripts {
        kvm: &'static str,
        tcg: &'static str,
        given_up: Mutex<Option<Fallback>>,
    }

    impl Scripts {
        const fn new(kvm: &'static str, tcg: &'static str) -> Self {
            Self { kvm, tcg, given_up: Mutex::new(None) }
        }
    }

    impl Vmm for Scripts {
        type Error = io::Error;

        fn recipe(&self, machine: &Machine, accelerator: Accelerator, parked: String) -> io::Result<Recipe> {
            Recipe::new(machine, accelerator, (Path::new("/bin/sh"), "1"), &[], parked, None)
        }

        fn kvm(&self, _: &Machine) -> Result<(), Fallback> {
            self.given_up.lock().unwrap().clone().map_or(Ok(()), Err)
        }

        fn give_up_kvm(&self, _: &Machine, reason: &Fallback) {
            *self.given_up.lock().unwrap() = Some(reason.clone());
        }

        fn tsc_khz(&self) -> Option<u64> {
            None
        }

        async fn start(&self, _: &Machine, accelerator: Accelerator, _: Origin<'_>) -> io::Result<Started> {
            let script = if accelerator == Accelerator::Kvm { self.kvm } else { self.tcg };
            let (control, guest) = UnixStream::pair()?;
            let (errors, guest_errors) = io::pipe()?;
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::null()).stdout(OwnedFd::from(guest)).stderr(guest_errors);
            let process = Process::start(command, Vec::new()).await?;
            let running = Running::new(process, File::open("/dev/null")?, errors, None)?;
            Ok(Started { running, control, monitor: None })
        }
    }

    const ANSWERS: &str = "echo hello; exec sleep 100";
    const SPINS: &str = "while :; do :; done";
    const SLEEPS: &str = "exec sleep 100";
    const FAILS: &str = "echo it is broken >&2; exit 3";

    async fn outcome(scripts: &Scripts, policy: Policy, kvm: Option<Result<(), Fallback>>) -> String {
        let machine = Machine {
            vcpus: 1,
            memory_mb: 1,
            kernel: "k".into(),
            initramfs: "i".into(),
            cmdline: Vec::new(),
            disks: Vec::new(),
            nic: None,
            console_log: None,
        };
        let deadlines = Deadlines { kvm: Duration::from_millis(400), tcg: Duration::from_millis(400) };
        let ready = async |_, control: UnixStream| {
            let read = move || (&control).read_exact(&mut [0; 6]);
            tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
        };
        let boot = Boot { vmm: scripts, machine: &machine, deadlines, ready };
        match boot.run(policy, kvm).await {
            Ok(booted) => format!("{:?}, {:?}", booted.accelerator, booted.fallback.map(|f| f.to_string())),
            Err(e) => std::iter::successors(Some(&e as &dyn std::error::Error), |e| e.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": "),
        }
    }

    #[tokio::test]
    async fn kvm_is_used_where_it_works_and_given_up_where_it_does_not() {
        let auto = async |kvm, tcg| outcome(&Scripts::new(kvm, tcg), Policy::Auto, Some(Ok(()))).await;
        let kvm = Policy::Only(Accelerator::Kvm);
        let shown = [
            auto(ANSWERS, FAILS).await,
            auto(SPINS, ANSWERS).await,
            auto(FAILS, ANSWERS).await,
            outcome(&Scripts::new(FAILS, ANSWERS), kvm, Some(Ok(()))).await,
            outcome(&Scripts::new(FAILS, ANSWERS), kvm, Some(Err(Fallback::NoProcessorSupport))).await,
            outcome(&Scripts::new(FAILS, ANSWERS), Policy::Auto, Some(Err(Fallback::NoProcessorSupport))).await,
            outcome(&Scripts::new(FAILS, ANSWERS), Policy::Only(Accelerator::Tcg), None).await,
        ]
        .join("\n");
        insta::assert_snapshot!(shown, @r#"
        Kvm, None
        Tcg, Some("the guest was not ready after running for 400ms under KVM")
        Tcg, Some("under KVM the virtual machine ended with exit code 3: it is broken")
        KVM cannot be used: under KVM the virtual machine ended with exit code 3: it is broken
        KVM cannot be used: this processor offers no hardware virtualization (neither vmx nor svm in /proc/cpuinfo)
        Tcg, Some("this processor offers no hardware virtualization (neither vmx nor svm in /proc/cpuinfo)")
        Tcg, None
        "#);
    }

    #[tokio::test]
    async fn kvm_that_was_given_up_is_only_what_works_worse_than_emulation() {
        for (kvm, tcg, given_up) in [(FAILS, ANSWERS, true), (SLEEPS, ANSWERS, true), (FAILS, FAILS, false)] {
            let scripts = Scripts::new(kvm, tcg);
            outcome(&scripts, Policy::Auto, Some(Ok(()))).await;
            assert_eq!(scripts.given_up.lock().unwrap().is_some(), given_up, "{kvm}, {tcg}");
        }
        let scripts = Scripts::new(FAILS, ANSWERS);
        outcome(&scripts, Policy::Auto, Some(Err(Fallback::NoProcessorSupport))).await;
        assert_eq!(*scripts.given_up.lock().unwrap(), None, "it was not tried");
    }

    #[tokio::test]
    async fn a_silent_guest_is_started_again_and_a_failing_one_is_not() {
        let tcg = async |tcg| outcome(&Scripts::new(FAILS, tcg), Policy::Only(Accelerator::Tcg), None).await;
        let shown = [tcg(SPINS).await, tcg(SLEEPS).await, tcg(FAILS).await].join("\n");
        insta::assert_snapshot!(shown, @"
        the guest was not ready after running for 400ms, 3 times: nothing on its console
        the guest was not ready after running for 400ms, 3 times: nothing on its console
        the guest did not start: the virtual machine ended with exit code 3: it is broken
        ");
    }
}
