//! Reaching a sandbox that another process supervises.

use std::{io, path::PathBuf, time::Duration};

use matchlock_model::SandboxId;
use matchlock_store::{Sandbox, Status};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    Host,
    link::{Link, LinkError},
    socket,
};

/// How long a supervisor may take to greet a client: it may be busy booting others on a loaded machine.
const GREETING_DEADLINE: Duration = Duration::from_secs(30);

/// Why a running sandbox could not be reached.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConnectError {
    #[error("VM {id} is not running (status: {status})")]
    NotRunning { id: SandboxId, status: Status },
    #[error("VM {id} is not ready yet, or has just ended ({path} does not answer)", path = path.display())]
    Socket {
        id: SandboxId,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("connect to VM {id}")]
    Link {
        id: SandboxId,
        #[source]
        source: LinkError,
    },
    #[error("VM {id} did not answer within {seconds} seconds")]
    Silent { id: SandboxId, seconds: u64 },
}

/// A link to the supervisor of `sandbox`.
///
/// # Errors
/// [`ConnectError`] if it does not run or does not answer.
pub async fn connect(host: &Host, sandbox: &Sandbox) -> Result<Link, ConnectError> {
    let id = &sandbox.id;
    let stream = reach(sandbox, host.state.vm(id).exec_socket())?;
    match tokio::time::timeout(GREETING_DEADLINE, Link::to_guest(stream)).await {
        Ok(link) => link.map_err(|source| ConnectError::Link { id: id.clone(), source }),
        Err(_) => Err(ConnectError::Silent { id: id.clone(), seconds: GREETING_DEADLINE.as_secs() }),
    }
}

/// A connection to the socket at `path` of the supervisor of `sandbox`.
pub(crate) fn reach(sandbox: &Sandbox, path: PathBuf) -> Result<UnixStream, ConnectError> {
    let id = sandbox.id.clone();
    if !sandbox.status.may_run() {
        return Err(ConnectError::NotRunning { id, status: sandbox.status });
    }
    let stream = socket::connect(&path).and_then(UnixStream::from_std);
    stream.map_err(|source| ConnectError::Socket { id, path, source })
}
