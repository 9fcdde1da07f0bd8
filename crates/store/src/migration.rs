//! Changes of the tables over the years, each applied once and written down in `schema_migrations`.
//!
//! Called by `database`, under its lock. Invariant: a migration and its `schema_migrations` row are one transaction; if
//! one of several fails, the whole database is put back as it was, in place, so that processes which have it open go on.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, MAIN_DB, TransactionBehavior, backup::Progress, params};

use crate::{
    StoreError, columns,
    database::{Abort, beside, check, create_empty},
};

/// One step. A list of them is in the order in which they are applied; versions of a module ascend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    pub(crate) module: &'static str,
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

const CREATE_SCHEMA_MIGRATIONS: &str = "
    CREATE TABLE IF NOT EXISTS schema_migrations (
        module TEXT NOT NULL,
        version INTEGER NOT NULL,
        name TEXT NOT NULL,
        applied_at TEXT NOT NULL,
        PRIMARY KEY (module, version)
    )";

/// Copies are small: nobody watches them.
const UNOBSERVED: Option<fn(Progress)> = None;

/// What of `schema` the database lacks. More than `schema` knows is [`StoreError::Newer`].
pub(crate) fn pending<'a>(
    connection: &Connection,
    path: &Path,
    schema: &'a [Migration],
) -> Result<Vec<&'a Migration>, Abort> {
    let applied = applied(connection)?;
    for (module, found) in &applied {
        let known = schema.iter().filter(|m| m.module == module).map(|m| m.version).max();
        if let Some(known) = known.filter(|known| found > known) {
            return Err(
                StoreError::Newer { path: path.to_owned(), module: module.clone(), found: *found, known }.into()
            );
        }
    }
    Ok(schema
        .iter()
        .filter(|m| !applied.iter().any(|(module, version)| m.module == module && m.version == *version))
        .collect())
}

fn applied(connection: &Connection) -> rusqlite::Result<Vec<(String, i64)>> {
    if !connection.table_exists(None, "schema_migrations")? {
        return Ok(Vec::new());
    }
    let mut rows = connection.prepare("SELECT module, version FROM schema_migrations")?;
    rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Does another process migrate `database` now, or was one killed while it did?
pub(crate) fn under_way(database: &Path) -> bool {
    backup_of(database).exists()
}

fn backup_of(database: &Path) -> PathBuf {
    beside(database, ".premigrate.bak")
}

/// Apply what is pending. The caller holds the lock.
pub(crate) fn run(connection: &mut Connection, path: &Path, schema: &[Migration]) -> Result<(), Abort> {
    let backup = backup_of(path);
    // One left by a process that was killed: every step it finished is whole, so go on from there.
    remove(&backup)?;
    let steps = pending(connection, path, schema)?;
    if steps.is_empty() {
        return Ok(());
    }
    check(connection, path)?;
    connection.execute_batch(CREATE_SCHEMA_MIGRATIONS)?;
    create_empty(&backup)?;
    if let Err(error) = connection.backup(MAIN_DB, &backup, UNOBSERVED) {
        remove(&backup)?;
        return Err(error.into());
    }
    let outcome = steps.iter().try_for_each(|step| apply(connection, step));
    if outcome.is_err() {
        connection.restore(MAIN_DB, &backup, UNOBSERVED)?;
    }
    remove(&backup)?;
    Ok(outcome?)
}

fn apply(connection: &mut Connection, step: &Migration) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(step.sql)?;
    transaction.execute(
        "INSERT INTO schema_migrations (module, version, name, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![step.module, step.version, step.name, columns::now()],
    )?;
    transaction.commit()
}

/// Remove a copy and what SQLite keeps beside it while it writes it. The copy goes last: it tells of the others.
fn remove(backup: &Path) -> Result<(), StoreError> {
    for path in ["-wal", "-shm", ""].map(|suffix| beside(backup, suffix)) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(|source| StoreError::NotWritable { path, source })?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;

    const ONE: Migration = Migration {
        module: "m",
        version: 1,
        name: "one",
        sql: "CREATE TABLE one (n INTEGER); INSERT INTO one VALUES (7)",
    };
    const TWO: Migration =
        Migration { module: "m", version: 2, name: "two", sql: "CREATE TABLE two (n); DROP TABLE one" };
    const BAD: Migration = Migration {
        module: "m",
        version: 3,
        name: "bad",
        sql: "CREATE TABLE three (n); INSERT INTO nowhere VALUES (1)",
    };

    fn tables(database: &Database) -> Vec<String> {
        let names = database.read(|c| {
            let mut rows = c.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
            rows.query_map((), |row| row.get(0))?.collect()
        });
        names.unwrap()
    }

    #[test]
    fn steps_are_applied_once_and_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        Database::open(&path, &[ONE]).unwrap();
        let database = Database::open(&path, &[ONE, TWO]).unwrap();
        assert_eq!(tables(&database), ["schema_migrations", "two"]);
        let written = database.read(|c| {
            let mut rows = c.prepare("SELECT module || version || name FROM schema_migrations ORDER BY version")?;
            rows.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        });
        assert_eq!(written.unwrap(), ["m1one", "m2two"]);
        assert!(!under_way(&path));
    }

    #[test]
    fn a_failed_step_puts_everything_back_also_for_those_who_have_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        let before = Database::open(&path, &[ONE]).unwrap();
        let error = Database::open(&path, &[ONE, TWO, BAD]).unwrap_err();
        assert!(matches!(error, StoreError::Sqlite { .. }), "{error}");

        assert!(!under_way(&path));
        assert_eq!(tables(&before), ["one", "schema_migrations"]);
        assert_eq!(before.read(|c| c.query_row("SELECT n FROM one", (), |r| r.get::<_, i64>(0))).unwrap(), 7);
        assert_eq!(tables(&Database::open(&path, &[ONE, TWO]).unwrap()), ["schema_migrations", "two"]);
    }

    #[test]
    fn a_copy_left_by_a_killed_process_is_removed_by_the_next_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        Database::open(&path, &[ONE]).unwrap();
        std::fs::write(backup_of(&path), "half a copy").unwrap();
        assert_eq!(tables(&Database::open(&path, &[ONE]).unwrap()), ["one", "schema_migrations"]);
        assert!(!under_way(&path));
    }

    #[test]
    fn what_a_newer_program_wrote_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        Database::open(&path, &[ONE, TWO]).unwrap();
        let error = Database::open(&path, &[ONE]).unwrap_err().to_string();
        assert!(error.contains("newer matchlock (m schema 2, this one knows 1)"), "{error}");
    }
}
