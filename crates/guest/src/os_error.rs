//! What did not work, and what the kernel said about it.

use rustix::io::Errno;
use thiserror::Error;

/// A failed operation, named for the user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{doing}: {}", reason(*.source))]
pub(crate) struct OsError {
    /// The operation and its object, for example `mount /dev/vda`.
    pub(crate) doing: String,
    /// The kernel's answer.
    pub(crate) source: Errno,
}

/// Names the operation that a result belongs to.
pub(crate) trait Doing<T> {
    /// The same result, with `what` in its error.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, OsError>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, OsError> {
        self.map_err(|source| OsError { doing: what(), source })
    }
}

/// The kernel's answer in words: a lower-case fragment.
pub(crate) fn reason(errno: Errno) -> String {
    let known = match errno {
        Errno::NOENT => "no such file or folder",
        Errno::ACCESS => "permission denied",
        Errno::PERM => "operation not permitted",
        Errno::NOTDIR => "not a folder",
        Errno::ISDIR => "is a folder",
        Errno::LOOP => "too many symbolic links",
        Errno::NAMETOOLONG => "name too long",
        Errno::NOSPC => "no space left",
        Errno::MFILE | Errno::NFILE => "too many open files",
        Errno::NOMEM => "out of memory",
        Errno::AGAIN => "too many processes",
        Errno::TOOBIG => "arguments and environment are too long",
        Errno::NOEXEC => "not a program of this machine's format",
        Errno::TXTBSY => "file is open for writing",
        Errno::TIMEDOUT => "timed out",
        Errno::ROFS => "read-only file system",
        Errno::NODEV | Errno::NXIO => "no such device",
        Errno::IO => "input or output error",
        Errno::INVAL => "invalid argument",
        other => return format!("error {}", other.raw_os_error()),
    };
    known.to_owned()
}
