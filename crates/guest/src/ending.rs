//! A session that the host gave up: its process group is asked to end, and a little later made to.

use std::time::{Duration, Instant};

use matchlock_wire::SessionId;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// What processes get between `SIGTERM` and `SIGKILL`.
const GRACE: Duration = Duration::from_millis(500);

/// What killed processes get to vanish. Longer takes only one whose parent, outside the group, does not collect it.
const VANISH: Duration = Duration::from_millis(500);

/// A process group on its way out.
pub(crate) struct Ending {
    /// The session to end afterwards; `None` if its host is gone.
    pub(crate) id: Option<SessionId>,
    group: Pid,
    leader_lives: bool,
    stage: Stage,
}

/// How far it is.
#[derive(Clone, Copy)]
enum Stage {
    /// Asked to end; made to at this time.
    Asked(Instant),
    /// Killed; not waited for beyond this time.
    Killed(Instant),
    /// All time is over, and yet the kernel holds the leader.
    Stuck,
}

impl Ending {
    /// Ask the group to end.
    pub(crate) fn begin(id: Option<SessionId>, group: Pid) -> Self {
        // A stopped process takes note of SIGTERM only when it goes on.
        for signal in [Signal::TERM, Signal::CONT] {
            let _ = kill_process_group(group, signal);
        }
        Self { id, group, leader_lives: true, stage: Stage::Asked(Instant::now() + GRACE) }
    }

    /// When [`Ending::advance`] has something to do even if nobody dies.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asked(at) | Stage::Killed(at) => Some(at),
            Stage::Stuck => None,
        }
    }

    /// This process is dead.
    pub(crate) fn note_death(&mut self, pid: Pid) {
        self.leader_lives &= pid != self.group;
    }

    /// Is it over? Kills what is left of the group when its time is over.
    ///
    /// The group's number stays its own while its leader is not collected or anybody is in it, so a signal cannot hit a
    /// stranger as long as the first sight of an empty group ends this.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        if !self.leader_lives && test_kill_process_group(self.group).is_err() {
            return true;
        }
        match self.stage {
            Stage::Asked(at) if at <= now => {
                let _ = kill_process_group(self.group, Signal::KILL);
                self.stage = Stage::Killed(now + VANISH);
            }
            Stage::Killed(at) if at <= now => self.stage = Stage::Stuck,
            _ => {}
        }
        matches!(self.stage, Stage::Stuck) && !self.leader_lives
    }
}
