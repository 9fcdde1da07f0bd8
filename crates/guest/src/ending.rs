//! A session that the host gave up: its process group is asked to end, and a little later made to.

use std::time::{Duration, Instant};

use matchlock_wire::SessionId;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// What processes get between `SIGTERM` and `SIGKILL`.
const GRACE: Duration = Duration::from_millis(500);

/// A process group on its way out.
pub(crate) struct Ending {
    /// The session to end afterwards; `None` if its host is gone.
    pub(crate) id: Option<SessionId>,
    group: Pid,
    leader_lives: bool,
    /// When to stop asking; `None` once that is done.
    kill_at: Option<Instant>,
}

impl Ending {
    /// Ask the group to end.
    pub(crate) fn begin(id: Option<SessionId>, group: Pid) -> Self {
        // A stopped process takes note of SIGTERM only when it goes on.
        for signal in [Signal::TERM, Signal::CONT] {
            let _ = kill_process_group(group, signal);
        }
        Self { id, group, leader_lives: true, kill_at: Some(Instant::now() + GRACE) }
    }

    /// When [`Ending::advance`] has something to do even if nobody dies.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.kill_at
    }

    /// This process is dead.
    pub(crate) fn note_death(&mut self, pid: Pid) {
        self.leader_lives &= pid != self.group;
    }

    /// Is the group gone? Kills what is left of it when its time is over.
    ///
    /// The group's number stays its own while its leader is not collected or anybody is in it, so a signal cannot hit a
    /// stranger as long as the first sight of an empty group ends this.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        if !self.leader_lives && test_kill_process_group(self.group).is_err() {
            return true;
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        !self.leader_lives && self.kill_at.is_none()
    }
}
