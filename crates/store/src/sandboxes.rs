//! The sandbox database, `~/.matchlock/state.db`: which sandboxes exist and which process answers for each.
//!
//! Called by `matchlock-sandbox`. Invariants: a sandbox's row is written before its folder is made, and deleted after
//! the folder is gone, so a folder without a row belongs to nobody; a row says `running` only while exactly the process
//! that registered it runs, as far as anyone has looked.

use std::time::Duration;

use jiff::Timestamp;
use matchlock_model::{Phase, ProcessIdentity, SandboxId, SandboxSpec, StateLayout};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::{
    Action, Details, StoreError, columns,
    database::{Abort, Database},
    folder, lifecycle, liveness,
    migration::Migration,
    undo,
    words::words,
};

const SCHEMA: &[Migration] = &[
    Migration {
        module: "state",
        version: 1,
        name: "create_vms",
        sql: "
            CREATE TABLE vms (
                id TEXT PRIMARY KEY,
                pid INTEGER NOT NULL DEFAULT 0,
                status TEXT NOT NULL,
                image TEXT NOT NULL DEFAULT '',
                config_json BLOB,
                created_at TEXT NOT NULL,
                updated_at TEXT NOT NULL
            );
            CREATE INDEX idx_vms_status ON vms (status);
            CREATE INDEX idx_vms_created_at ON vms (created_at);",
    },
    Migration {
        module: "state",
        version: 2,
        name: "create_subnet_allocations",
        // Leases of links among the host's own; sandboxes with private networks have none.
        sql: "
            CREATE TABLE subnet_allocations (
                vm_id TEXT PRIMARY KEY,
                octet INTEGER NOT NULL UNIQUE,
                gateway_ip TEXT NOT NULL,
                guest_ip TEXT NOT NULL,
                subnet TEXT NOT NULL,
                created_at TEXT NOT NULL
            );
            CREATE INDEX idx_subnet_allocations_octet ON subnet_allocations (octet);",
    },
    Migration {
        module: "state",
        version: 3,
        name: "identify_processes",
        sql: "
            ALTER TABLE vms ADD COLUMN pid_start_time INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE vms ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';",
    },
    lifecycle::CREATE_LIFECYCLE,
    lifecycle::CREATE_HEAD,
    undo::CREATE_UNDO,
];

words! {
    /// What `matchlock list` shows.
    Status {
        /// Its supervisor lives.
        Running = "running",
        /// It was ended in order.
        Stopped = "stopped",
        /// Its supervisor died without ending it.
        Crashed = "crashed",
        /// It cannot be told whether its supervisor lives, such as when its folder is another user's. Never in a row.
        Unknown = "unknown",
    }
}

/// A sandbox as it is to be registered.
#[derive(Debug)]
pub struct Registration<'a> {
    /// What was asked for.
    pub spec: &'a SandboxSpec,
    /// The process that answers for it and ends it: its supervisor.
    pub owner: &'a ProcessIdentity,
    /// What its first lifecycle record says.
    pub details: Details,
    /// How to undo what is done first, such as making its folder; undone in reverse.
    pub undo: &'a [Action],
}

/// A row of `vms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// What became of it.
    pub status: Status,
    /// Its supervisor; none once it was ended in order.
    pub owner: Option<ProcessIdentity>,
    /// The image as it was asked for.
    pub image: String,
    /// The specification it was registered with, as JSON.
    pub config: serde_json::Value,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When the row changed last.
    pub updated_at: Timestamp,
}

/// Which of the sandboxes that are written down as running are not, or may not be.
#[derive(Default)]
struct Doubts {
    dead: Vec<SandboxId>,
    unknown: Vec<SandboxId>,
}

impl Status {
    /// May its supervisor live?
    #[must_use]
    pub const fn may_run(self) -> bool {
        matches!(self, Self::Running | Self::Unknown)
    }
}

impl Sandbox {
    /// The time that its processes were promised between `SIGTERM` and `SIGKILL`.
    pub(crate) fn grace(&self) -> Duration {
        let promised = &self.config["resources"]["graceful_shutdown_ms"];
        Duration::from_millis(promised.as_u64().unwrap_or_default())
    }
}

/// The open sandbox database.
#[derive(Debug)]
pub struct SandboxStore {
    pub(crate) database: Database,
    pub(crate) layout: StateLayout,
}

impl SandboxStore {
    /// Open the sandbox database of `layout`, making or migrating it where needed.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written, is damaged, or was written by a newer version.
    pub fn open(layout: &StateLayout) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open(&layout.database(), SCHEMA)?, layout: layout.clone() })
    }

    /// Write down that the sandbox exists, in phase `creating`, and how to undo its first steps. The caller makes
    /// its folder only after this has returned.
    ///
    /// # Errors
    /// [`StoreError::IdTaken`] if a sandbox of this id exists, existed not long ago or has a folder: take another one.
    pub fn register(&mut self, new: &Registration<'_>) -> Result<(), StoreError> {
        let id = &new.spec.id;
        let has_folder = self.layout.vm(id).dir().exists();
        self.database.write(|transaction| {
            if has_folder || exists(transaction, id)? || lifecycle::is_known(transaction, id)? {
                return Err(StoreError::IdTaken(id.clone()).into());
            }
            transaction.execute(
                "INSERT INTO vms (id, pid, status, image, config_json, created_at, updated_at, pid_start_time, boot_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8)",
                params![
                    id.as_str(),
                    new.owner.pid,
                    Status::Running.as_str(),
                    new.spec.image,
                    columns::to_json(new.spec)?.into_bytes(),
                    columns::now(),
                    new.owner.start_time,
                    new.owner.boot_id,
                ],
            )?;
            lifecycle::append(transaction, id, &[Phase::Creating], |details| *details = new.details.clone())?;
            new.undo.iter().try_for_each(|action| undo::push(transaction, id, action))?;
            Ok(())
        })
    }

    /// All sandboxes, the newest first. One whose supervisor has died is shown, and from now on written, as crashed; one
    /// that cannot be judged is shown as unknown, and keeps nobody from seeing the others.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn list(&mut self) -> Result<Vec<Sandbox>, StoreError> {
        let mut sandboxes = self.database.read_checked(all)?;
        let doubts = self.doubts(&sandboxes);
        if !doubts.dead.is_empty() {
            sandboxes = self.database.write(|transaction| {
                doubts.dead.iter().try_for_each(|id| mark_crashed(transaction, id))?;
                Ok(all(transaction)?)
            })?;
        }
        for sandbox in &mut sandboxes {
            doubts.apply(sandbox);
        }
        Ok(sandboxes)
    }

    /// One sandbox, with the same look at its supervisor as [`Self::list`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database cannot be read.
    pub fn get(&mut self, id: &SandboxId) -> Result<Sandbox, StoreError> {
        let find = |found: Option<Sandbox>| found.ok_or_else(|| StoreError::NotFound(id.clone()));
        let mut sandbox = find(self.database.read(|connection| one(connection, id))?)?;
        let doubts = self.doubts(std::slice::from_ref(&sandbox));
        if !doubts.dead.is_empty() {
            sandbox = self.database.write(|transaction| {
                mark_crashed(transaction, id)?;
                Ok(find(one(transaction, id)?)?)
            })?;
        }
        doubts.apply(&mut sandbox);
        Ok(sandbox)
    }

    fn doubts(&self, sandboxes: &[Sandbox]) -> Doubts {
        let mut doubts = Doubts::default();
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.status == Status::Running) {
            match self.is_alive(sandbox) {
                Ok(true) => {}
                Ok(false) => doubts.dead.push(sandbox.id.clone()),
                // Whoever acts on this one asks again, and is told.
                Err(_) => doubts.unknown.push(sandbox.id.clone()),
            }
        }
        doubts
    }

    /// Does the sandbox's supervisor live? Its folder says so where its pid is another namespace's.
    pub(crate) fn is_alive(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let Some(owner) = &sandbox.owner else { return Ok(false) };
        let folder = self.layout.vm(&sandbox.id).dir().to_owned();
        Ok(liveness::is_alive(owner)?
            || folder::is_claimed(&folder).map_err(|source| StoreError::Unreadable { path: folder, source })?)
    }

    /// Delete the row of a sandbox that owes nothing and whose folder is gone. Its history stays for a while.
    pub(crate) fn forget(&mut self, id: &SandboxId) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            if !undo::owed(transaction, id)?.is_empty() {
                return Err(StoreError::Unreleased(id.clone()).into());
            }
            transaction.execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])?;
            Ok(lifecycle::trim(transaction)?)
        })
    }
}

impl Doubts {
    /// Only what is still written down as running is in doubt.
    fn apply(&self, sandbox: &mut Sandbox) {
        if sandbox.status == Status::Running && self.unknown.contains(&sandbox.id) {
            sandbox.status = Status::Unknown;
        }
    }
}

/// Refuse if there is no such sandbox.
pub(crate) fn must_exist(connection: &Connection, id: &SandboxId) -> Result<(), Abort> {
    if exists(connection, id)? { Ok(()) } else { Err(StoreError::NotFound(id.clone()).into()) }
}

pub(crate) fn exists(connection: &Connection, id: &SandboxId) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM vms WHERE id = ?1")?.exists([id.as_str()])
}

fn one(connection: &Connection, id: &SandboxId) -> rusqlite::Result<Option<Sandbox>> {
    connection.prepare_cached("SELECT * FROM vms WHERE id = ?1")?.query_row([id.as_str()], sandbox).optional()
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<Sandbox>> {
    // The order of their making; the text of timestamps does not sort.
    connection.prepare_cached("SELECT * FROM vms ORDER BY rowid DESC")?.query_map((), sandbox)?.collect()
}

/// Change the row only if it is still the one that was looked at.
fn mark_crashed(transaction: &Transaction<'_>, id: &SandboxId) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE vms SET status = ?2, updated_at = ?3 WHERE id = ?1 AND status = ?4",
        params![id.as_str(), Status::Crashed.as_str(), columns::now(), Status::Running.as_str()],
    )?;
    Ok(())
}

fn sandbox(row: &Row<'_>) -> rusqlite::Result<Sandbox> {
    let pid: i32 = row.get("pid")?;
    let owner = ProcessIdentity { pid, start_time: row.get("pid_start_time")?, boot_id: row.get("boot_id")? };
    Ok(Sandbox {
        id: columns::parse(row, "id")?,
        status: columns::parse(row, "status")?,
        owner: (pid != 0).then_some(owner),
        image: row.get("image")?,
        config: columns::json(row, "config_json")?,
        created_at: columns::parse(row, "created_at")?,
        updated_at: columns::parse(row, "updated_at")?,
    })
}
