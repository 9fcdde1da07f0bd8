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

use std::{sync::Arc, time::Duration};

use matchlock_model::{ExitStatus, SandboxId, SandboxSpec, one_line};
use matchlock_net::gateway::Gateway;
use matchlock_store::StoreError;
use matchlock_vmm::{LAST_WORDS, ProcessEnd};
use matchlock_wire::{Exec, Request};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    ask::{AskError, ask},
    control::Service,
    exec::{self, ExecError, Streams},
    hold::Hold,
    launch::Keep,
    link::{Link, LinkError},
    log::VmLog,
    network::NetworkLog,
    relay::Relay,
};

/// How long the guest may take for its clean end beyond the time that its processes are given.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(30);

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
    pub(crate) guest: Guest,
    /// Last to go: see [`Hold`].
    pub(crate) hold: Hold,
}

/// A guest that has become the sandbox, and the ways to it.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) spec: Arc<SandboxSpec>,
    pub(crate) link: Link,
    pub(crate) log: VmLog,
    /// What the user should know about how it runs.
    pub(crate) notices: Vec<String>,
    /// Carries its network traffic, if it has any, and keeps what is told of it.
    pub(crate) network: Option<(Gateway, NetworkLog)>,
    pub(crate) _control: Service,
    /// Whoever had kept it ready waits until this is closed, or for a moment: see [`crate::warm`].
    pub(crate) _pool: Option<UnixStream>,
    pub(crate) _relay: Relay,
}

impl Guest {
    /// So that all is told of it, which a drop does not wait for, and written down.
    async fn end_network(&mut self) {
        if let Some((gateway, log)) = self.network.take() {
            gateway.end().await;
            drop(log);
        }
    }
}

impl Sandbox {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.guest.spec.id
    }

    /// Its log.
    #[must_use]
    pub const fn log(&self) -> &VmLog {
        &self.guest.log
    }

    /// Change what is to stay of it.
    pub const fn keep(&mut self, keep: Keep) {
        self.hold.keep = keep;
    }

    /// What the user should know about how it runs, one line each.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.guest.notices
    }

    /// Run a program in it with the specification's environment, folder and user where `exec` names none.
    ///
    /// # Errors
    /// [`ExecError`] if it could not be started or the sandbox ended first.
    pub async fn exec(&self, exec: Exec, streams: Streams) -> Result<ExitStatus, ExecError> {
        exec::run(&self.guest.link, exec::with_defaults(exec, &self.guest.spec), streams).await
    }

    /// Wait until it ends by itself; returns why, in one line. Its log and its record say so, too.
    pub async fn ended(&self) -> String {
        let reason = self.cause_of_death().await;
        self.leave_word(&reason);
        reason
    }

    /// Tell those who ask later, once, why it did not end in order: nobody may be watching.
    fn leave_word(&self, reason: &str) {
        if self.hold.death.set(reason.to_owned()).is_ok() {
            self.guest.log.append(format!("[matchlock] sandbox ended: {reason}\n").as_bytes());
        }
    }

    async fn cause_of_death(&self) -> String {
        let broken = self.guest.link.closed().await;
        let Some(machine) = &self.hold.machine else { return one_line(&broken) };
        // The link can break a moment before the machine is gone, which says more; or the guest broke it, and goes on.
        match tokio::time::timeout(LAST_WORDS, machine.exited()).await {
            Ok(Ok(exit)) => exit.to_string(),
            _ => one_line(&broken),
        }
    }

    /// End its machine, in order where that matters to anybody: processes get `grace` after SIGTERM, the user's disks are
    /// written out. [`Self::close`] has to follow. Where it fails, log and record say so, too.
    ///
    /// # Errors
    /// [`CloseError::Unclean`] for what may be lost.
    pub async fn shut_down(&self, grace: Duration) -> Result<(), CloseError> {
        let writes = self.guest.spec.extra_disks.iter().any(|disk| !disk.readonly);
        // Nothing of the writable layer outlives the sandbox, so only the user's disks are worth the wait.
        if !writes && grace.is_zero() {
            if let Some(machine) = &self.hold.machine {
                // One that cannot be is ended by `close`.
                let _ = machine.condemn();
            }
            return Ok(());
        }
        self.power_off(grace).await.inspect_err(|unclean| self.leave_word(&one_line(unclean)))
    }

    /// End it at once and give everything back.
    ///
    /// # Errors
    /// [`CloseError`] for what is left.
    pub async fn close(mut self) -> Result<(), CloseError> {
        self.guest.end_network().await;
        self.hold.release()
    }

    /// As [`Self::close`], for a process that is about to end, and with it what is left of the machine: it does not wait
    /// until the kernel has freed what that had.
    ///
    /// # Errors
    /// [`CloseError`] for what is left.
    pub async fn leave(mut self) -> Result<(), CloseError> {
        self.guest.end_network().await;
        self.hold.leave()
    }

    /// The guest says that its disks are clean, and ends its machine. Neither is enough alone: a machine whose kernel
    /// gave up ends just so.
    async fn power_off(&self, grace: Duration) -> Result<(), CloseError> {
        let unclean = |error: &dyn std::error::Error| CloseError::Unclean(one_line(error));
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        let ended = async {
            let answer = ask(&self.guest.link, Request::PowerOff { grace_ms }).await;
            if let Err(refused @ (AskError::Refused(_) | AskError::Link(LinkError::Refused(_)))) = &answer {
                return Err(unclean(refused));
            }
            let Some(machine) = &self.hold.machine else { return Ok(()) };
            let exit = machine.exited().await.map_err(|error| unclean(&error))?;
            let clean = answer.is_ok() && exit.process == ProcessEnd::Code(0);
            if clean { Ok(()) } else { Err(CloseError::Unclean(exit.to_string())) }
        };
        let silent = |_| CloseError::Unclean("it did not power off".to_owned());
        tokio::time::timeout(grace + POWER_OFF_DEADLINE, ended).await.map_err(silent)?
    }
}
