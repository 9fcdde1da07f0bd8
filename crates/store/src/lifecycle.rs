//! The history of a sandbox: `vm_lifecycle`, an append-only table with one complete record per change.
//!
//! Called through [`SandboxStore`]. Invariants: records of a sandbox are numbered without gaps; each follows from the
//! one before by a step that [`Phase`] knows, also when several processes append, because the newest record is read
//! and the next one written under one write lock; `vms.status` follows from the phase in the same transaction.

use std::collections::BTreeMap;

use jiff::Timestamp;
use matchlock_model::{Phase, SandboxId};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::{SandboxStore, Status, StoreError, columns, database::Abort, migration::Migration, sandboxes};

/// The records of this many removed sandboxes are kept, so that one can still be asked what became of them.
pub(crate) const REMOVED_KEPT: u32 = 100;

pub(crate) const CREATE_LIFECYCLE: Migration = Migration {
    module: "lifecycle",
    version: 1,
    name: "create_append_only_vm_lifecycle_table",
    sql: "
        CREATE TABLE vm_lifecycle (
            vm_id TEXT NOT NULL,
            version INTEGER NOT NULL,
            backend TEXT NOT NULL DEFAULT '',
            phase TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            last_error TEXT NOT NULL DEFAULT '',
            resources_json TEXT NOT NULL DEFAULT '{}',
            cleanup_json TEXT NOT NULL DEFAULT '{}',
            PRIMARY KEY (vm_id, version)
        );
        CREATE INDEX idx_vm_lifecycle_phase ON vm_lifecycle (phase);
        CREATE INDEX idx_vm_lifecycle_vm_version ON vm_lifecycle (vm_id, version DESC);",
};

pub(crate) const CREATE_HEAD: Migration = Migration {
    module: "lifecycle",
    version: 2,
    name: "create_vm_lifecycle_head",
    sql: "
        CREATE TABLE vm_lifecycle_head (vm_id TEXT PRIMARY KEY, last_version INTEGER NOT NULL);
        INSERT INTO vm_lifecycle_head SELECT vm_id, max(version) FROM vm_lifecycle GROUP BY vm_id;",
};

/// One record, as `matchlock inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Its number, from 1.
    pub version: i64,
    /// Whose it is.
    pub vm_id: SandboxId,
    /// The phase that was entered, or stayed in.
    pub phase: Phase,
    /// When.
    pub updated_at: Timestamp,
    /// Everything else that was known then.
    #[serde(flatten)]
    pub details: Details,
}

/// What a record says besides the phase. The next record begins with the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Details {
    /// Which virtual machine monitor runs it, such as `qemu`.
    pub backend: String,
    /// What went wrong last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// What belongs to it, by name, such as `state_dir` and `rootfs_path`.
    pub resources: BTreeMap<String, String>,
    /// How far giving it back has come, by action.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cleanup: BTreeMap<String, CleanupStep>,
}

/// What came of giving back one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupStep {
    /// Whether it is given back.
    pub status: CleanupStatus,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// When.
    pub updated_at: Timestamp,
}

/// Whether a resource is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanupStatus {
    /// It is gone.
    Ok,
    /// It has to be tried again.
    Error,
}

impl SandboxStore {
    /// Enter `phases`, one after the other, with one record each and all in one transaction. `edit` changes what the
    /// records say.
    ///
    /// # Errors
    /// [`StoreError::Phase`] if the newest record, by whomever, does not allow the step; [`StoreError::NotFound`];
    /// or the database cannot be written. Nothing is appended then.
    pub fn advance(
        &mut self,
        id: &SandboxId,
        phases: &[Phase],
        edit: impl FnOnce(&mut Details),
    ) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            sandboxes::must_exist(transaction, id)?;
            append(transaction, id, phases, edit)
        })
    }

    /// All records of a sandbox, the oldest first; also those of a sandbox that was removed not long ago.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn history(&self, id: &SandboxId) -> Result<Vec<Record>, StoreError> {
        self.database.read(|connection| {
            let mut rows = connection.prepare("SELECT * FROM vm_lifecycle WHERE vm_id = ?1 ORDER BY version")?;
            rows.query_map([id.as_str()], record)?.collect()
        })
    }
}

/// Append a record for each of `phases` to what the newest one says.
pub(crate) fn append(
    transaction: &Transaction<'_>,
    id: &SandboxId,
    phases: &[Phase],
    edit: impl FnOnce(&mut Details),
) -> Result<(), Abort> {
    let newest = newest(transaction, id)?;
    // A sandbox of an older version may have no record.
    let (mut version, mut phase, mut details) =
        newest.map_or((0, Phase::Creating, Details::default()), |r| (r.version, r.phase, r.details));
    edit(&mut details);
    for next in phases {
        phase = phase.enter(*next).map_err(StoreError::from)?;
        version += 1;
        insert(transaction, id, version, phase, &details)?;
    }
    transaction.execute(
        "INSERT INTO vm_lifecycle_head (vm_id, last_version) VALUES (?1, ?2)
         ON CONFLICT (vm_id) DO UPDATE SET last_version = excluded.last_version",
        params![id.as_str(), version],
    )?;
    if phase == Phase::Cleaned {
        // One that crashed stays `crashed`: that is how it ended.
        transaction.execute(
            "UPDATE vms SET status = ?2, pid = 0, pid_start_time = 0, boot_id = '', updated_at = ?3
             WHERE id = ?1 AND status = ?4",
            params![id.as_str(), Status::Stopped.as_str(), columns::now(), Status::Running.as_str()],
        )?;
    }
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    id: &SandboxId,
    version: i64,
    phase: Phase,
    details: &Details,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO vm_lifecycle (vm_id, version, backend, phase, updated_at, last_error, resources_json, cleanup_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            id.as_str(),
            version,
            details.backend,
            phase.as_str(),
            columns::now(),
            details.last_error,
            columns::to_json(&details.resources)?,
            columns::to_json(&details.cleanup)?,
        ],
    )?;
    Ok(())
}

pub(crate) fn newest(connection: &Connection, id: &SandboxId) -> rusqlite::Result<Option<Record>> {
    let mut rows =
        connection.prepare_cached("SELECT * FROM vm_lifecycle WHERE vm_id = ?1 ORDER BY version DESC LIMIT 1")?;
    rows.query_row([id.as_str()], record).optional()
}

/// Has any sandbox of this id left records?
pub(crate) fn is_known(connection: &Connection, id: &SandboxId) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM vm_lifecycle_head WHERE vm_id = ?1")?.exists([id.as_str()])
}

/// Drop the records of removed sandboxes but the newest [`REMOVED_KEPT`].
pub(crate) fn trim(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let forgotten = "SELECT vm_id FROM vm_lifecycle_head WHERE vm_id NOT IN (SELECT id FROM vms)
         ORDER BY rowid DESC LIMIT -1 OFFSET ?1";
    for table in ["vm_lifecycle", "vm_lifecycle_head"] {
        transaction.execute(&format!("DELETE FROM {table} WHERE vm_id IN ({forgotten})"), [REMOVED_KEPT])?;
    }
    Ok(())
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        version: row.get("version")?,
        vm_id: columns::parse(row, "vm_id")?,
        phase: columns::parse(row, "phase")?,
        updated_at: columns::parse(row, "updated_at")?,
        details: Details {
            backend: row.get("backend")?,
            last_error: row.get("last_error")?,
            resources: columns::json(row, "resources_json")?,
            cleanup: columns::json(row, "cleanup_json")?,
        },
    })
}
