//! Opening a database: the file, its pragmas, its tables, and what to say when one of them is not as it should be.
//!
//! Called by [`crate::SandboxStore`] and [`crate::ImageStore`]. Invariants: a connection that is handed out has every
//! table at the version this program knows; the file is readable by its owner only; every write is one immediate
//! transaction, so what it read is still true when it commits; whatever SQLite finds damaged is an error and no rows.
//!
//! A database that is up to date is opened without the lock: that is the start path of every command. The lock is
//! taken only to create or migrate.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Mode},
    io::Errno,
};

use crate::{
    StoreError,
    lock::InitLock,
    migration::{self, Migration},
};

/// How long a statement waits for another process's transaction.
const BUSY_DEADLINE: Duration = Duration::from_secs(15);

/// SQLite's growth steps are smaller than this many bytes.
const LITTLE_SPACE: u64 = 1 << 20;

/// An open database whose tables are up to date.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Connection,
    path: PathBuf,
}

/// Why a transaction was rolled back: SQLite's reason, or the caller's own.
#[derive(Debug)]
pub(crate) enum Abort {
    Sqlite(rusqlite::Error),
    Refused(StoreError),
}

impl From<rusqlite::Error> for Abort {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl Database {
    /// Open the database at `path`, made or migrated as `schema` wants it.
    pub(crate) fn open(path: &Path, schema: &[Migration]) -> Result<Self, StoreError> {
        Self::try_open(path, schema).map_err(|abort| explain(path, abort))
    }

    fn try_open(path: &Path, schema: &[Migration]) -> Result<Self, Abort> {
        private_folder(path.parent().unwrap_or(Path::new("/")))?;
        create_empty(path)?;
        let connection = connect(path)?;
        if !migration::under_way(path)
            && is_wal(&connection)?
            && migration::pending(&connection, path, schema)?.is_empty()
        {
            return Ok(Self { connection, path: path.to_owned() });
        }
        // Whoever holds the lock may be replacing what this connection has read.
        drop(connection);

        let _lock = InitLock::take(path)?;
        let mut connection = connect(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migration::run(&mut connection, path, schema)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Run queries that all see one state of the database. All rows or an error: never some rows.
    pub(crate) fn read<T>(&self, queries: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let rows = self.connection.unchecked_transaction().and_then(|snapshot| queries(&snapshot));
        rows.map_err(|error| explain(&self.path, error.into()))
    }

    /// Run one transaction. It holds the write lock from its first statement on, and leaves nothing if it fails.
    pub(crate) fn write<T>(
        &mut self,
        changes: impl FnOnce(&Transaction<'_>) -> Result<T, Abort>,
    ) -> Result<T, StoreError> {
        transaction(&mut self.connection, changes).map_err(|abort| explain(&self.path, abort))
    }

    /// As [`Self::read`], for those who conclude something from a row that is not there: every page is looked at
    /// first, because SQLite itself does not notice one that lost its rows.
    pub(crate) fn read_checked<T>(
        &self,
        queries: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        check(&self.connection, &self.path).map_err(|abort| explain(&self.path, abort))?;
        self.read(queries)
    }
}

fn transaction<T>(
    connection: &mut Connection,
    changes: impl FnOnce(&Transaction<'_>) -> Result<T, Abort>,
) -> Result<T, Abort> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = changes(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

/// Read every page of a database, compare tables with their indexes, and see that no page is cut: SQLite reads what is
/// missing of one as zeros.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<(), Abort> {
    let damaged = |detail| Abort::from(StoreError::Damaged { path: path.to_owned(), detail });
    let finding: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if finding != "ok" {
        return Err(damaged(finding));
    }
    let page_size: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let length = std::fs::metadata(path).map_err(|error| damaged(error.to_string()))?.len();
    if !length.is_multiple_of(page_size) {
        return Err(damaged(format!("its {length} bytes are not whole pages of {page_size}")));
    }
    Ok(())
}

/// Put a database that cannot be used out of the way, with what SQLite keeps beside it, and say where it is now.
/// The next open makes a new one.
///
/// # Errors
/// [`StoreError::NotWritable`] if the files cannot be renamed, such as when there is none.
pub fn move_aside(database: &Path) -> Result<PathBuf, StoreError> {
    let _lock = InitLock::take(database)?;
    let aside = beside(database, &format!(".damaged-{}", crate::columns::now()));
    // The main file goes last: until then this can be done again.
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (beside(database, suffix), beside(&aside, suffix));
        match std::fs::rename(&from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            result => result.map_err(|source| StoreError::NotWritable { path: from, source })?,
        }
    }
    Ok(aside)
}

/// `path` with `suffix` after its file name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A connection with the pragmas that are not kept in the file.
fn connect(path: &Path) -> Result<Connection, Abort> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_DEADLINE)?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

fn is_wal(connection: &Connection) -> Result<bool, Abort> {
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    Ok(mode == "wal")
}

/// A folder that only its owner can look into.
fn private_folder(folder: &Path) -> Result<(), StoreError> {
    let not_writable = |source| StoreError::NotWritable { path: folder.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(not_writable)?;
    restrict(folder, 0o700).map_err(not_writable)
}

/// An empty file, which is an empty database, that only its owner can read.
///
/// It is made without opening it: closing any descriptor of a database drops the locks that SQLite holds on it
/// elsewhere in this process (fcntl(2), "Advisory record locking").
pub(crate) fn create_empty(path: &Path) -> Result<(), StoreError> {
    let not_writable = |source| StoreError::NotWritable { path: path.to_owned(), source };
    match rustix::fs::mknodat(CWD, path, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0) {
        // SQLite gives the files it makes beside it the same mode.
        Err(Errno::EXIST) => restrict(path, 0o600).map_err(not_writable),
        result => result.map_err(|errno| not_writable(errno.into())),
    }
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    if std::fs::metadata(path)?.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// SQLite's reasons in this crate's words.
fn explain(path: &Path, abort: Abort) -> StoreError {
    let source = match abort {
        Abort::Refused(error) => return error,
        Abort::Sqlite(source) => source,
    };
    let path = path.to_owned();
    match (&source, source.sqlite_error_code()) {
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        | (
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..),
            _,
        ) => StoreError::Damaged { path, detail: source.to_string() },
        (_, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            StoreError::Busy { path, seconds: BUSY_DEADLINE.as_secs() }
        }
        (_, Some(ErrorCode::DiskFull)) => StoreError::NotWritable { path, source: Errno::NOSPC.into() },
        (_, Some(ErrorCode::SystemIoFailure)) if is_full(&path) => {
            StoreError::NotWritable { path, source: Errno::NOSPC.into() }
        }
        (_, Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)) => {
            not_writable(&path).unwrap_or(StoreError::Sqlite { path, source })
        }
        _ => StoreError::Sqlite { path, source },
    }
}

/// Is no space left where the database is? SQLite calls that an I/O error where it needs memory shared, and gives back
/// what it had got so far.
fn is_full(database: &Path) -> bool {
    rustix::fs::statvfs(database).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LITTLE_SPACE)
}

/// Which of the database and its folder the kernel will not have written, and why; SQLite does not pass it on.
fn not_writable(database: &Path) -> Option<StoreError> {
    let folder = database.parent()?;
    [folder, database].into_iter().find_map(|path| {
        let errno = rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).err()?;
        Some(StoreError::NotWritable { path: path.to_owned(), source: errno.into() })
    })
}
