//! What this process holds for a sandbox, from its row on. Dropped, it gives everything back.
//!
//! Called by `launch`, which fills it, and by [`crate::Sandbox`], which is over when this is.

use std::{collections::BTreeMap, sync::OnceLock};

use matchlock_model::{Phase, SandboxId, SandboxSpec, VmLayout, one_line};
use matchlock_store::{Action, Details, FolderClaim, Registration, Released, SandboxStore, StoreError, own_identity};
use matchlock_vmm::Running;

use crate::{
    Host,
    disks::DiskLocks,
    launch::{Keep, LaunchError, random},
    sandbox::CloseError,
};

/// Ids tried before giving up; each is one of four thousand million.
const ID_ATTEMPTS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) store: SandboxStore,
    pub(crate) id: SandboxId,
    pub(crate) keep: Keep,
    pub(crate) machine: Option<Running>,
    /// Held until the machine is gone; says so to other processes.
    pub(crate) claim: Option<FolderClaim>,
    /// Why it did not end in order, once that is known.
    pub(crate) death: OnceLock<String>,
    released: bool,
    /// Held until the machine is gone.
    pub(crate) disks: DiskLocks,
}

impl Hold {
    /// Write the sandbox down under a free id, together with how to undo what is made first.
    pub(crate) fn register(host: &Host, spec: &mut SandboxSpec, disks: DiskLocks) -> Result<Self, LaunchError> {
        let mut store = host.sandboxes()?;
        let owner = own_identity().map_err(|source| LaunchError::Io { what: "read /proc", source })?;
        for _ in 0..ID_ATTEMPTS {
            spec.id = SandboxId::from_random(random()?);
            let layout = host.state.vm(&spec.id);
            // The folder itself is removed together with the row.
            let files = [layout.upper(), layout.exec_socket(), layout.control_socket()];
            let undo = files.map(|path| Action::RemoveFile { path });
            let details = Details { backend: "qemu".to_owned(), resources: resources(&layout), ..Details::default() };
            match store.register(&Registration { spec, owner: &owner, details, undo: &undo }) {
                Ok(()) => {
                    return Ok(Self {
                        store,
                        id: spec.id.clone(),
                        // What does not come up is of no use to anybody, whatever was to be kept of it.
                        keep: Keep::Nothing,
                        machine: None,
                        claim: None,
                        death: OnceLock::new(),
                        released: false,
                        disks,
                    });
                }
                Err(StoreError::IdTaken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LaunchError::NoFreeId)
    }

    /// Note why it did not come up; the drop does the rest.
    pub(crate) fn failed(&mut self, error: &LaunchError) {
        let newest = self.store.history(&self.id).ok().and_then(|history| history.last().map(|record| record.phase));
        let phase = if newest == Some(Phase::Creating) { Phase::CreateFailed } else { Phase::StartFailed };
        self.record(phase, one_line(error));
    }

    /// As [`Self::release`], without waiting until the machine is gone where it has nothing in its hands that anybody else
    /// uses.
    pub(crate) fn leave(&mut self) -> Result<(), CloseError> {
        let Some(machine) = self.machine.take_if(|_| self.disks.paths().is_empty()) else { return self.release() };
        let given_back = machine.condemn().is_ok() && self.store.settle_processes(&self.id).is_ok();
        if given_back && self.release().is_ok() {
            // Condemned it is in any case.
            let _ = machine.let_go();
            return Ok(());
        }
        // What it has may be what fills the disk.
        drop(machine);
        self.release()
    }

    /// End the machine and give everything back.
    pub(crate) fn release(&mut self) -> Result<(), CloseError> {
        self.released = true;
        if let Some(reason) = self.death.take() {
            self.record(Phase::Stopping, reason);
        }
        // Dropping it ends it.
        self.machine = None;
        let Released { failed, .. } = self.store.release(&self.id)?;
        self.claim = None;
        if !failed.is_empty() {
            let left: Vec<_> = failed.iter().map(|(key, error)| format!("{key}: {}", one_line(error))).collect();
            return Err(CloseError::Left(left.join("; ")));
        }
        if self.keep == Keep::Nothing {
            self.store.discard(&self.id)?;
        }
        Ok(())
    }

    /// Enter a phase in which something went wrong. A record that cannot be written is no reason not to go on.
    fn record(&mut self, phase: Phase, last_error: String) {
        if let Err(error) = self.store.advance(&self.id, &[phase], |details| details.last_error = last_error) {
            tracing::debug!("record {phase} of {}: {}", self.id, one_line(&error));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = self.release()
        {
            tracing::warn!("clean up {}: {}", self.id, one_line(&error));
        }
    }
}

/// What belongs to a sandbox, as `inspect` shows it.
fn resources(layout: &VmLayout) -> BTreeMap<String, String> {
    let paths = [
        ("state_dir", layout.dir().to_owned()),
        ("exec_socket", layout.exec_socket()),
        ("control_socket", layout.control_socket()),
    ];
    paths.map(|(name, path)| (name.to_owned(), path.display().to_string())).into()
}
