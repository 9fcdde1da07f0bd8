//! The pools of this user, as other processes reach them.
//!
//! Invariant: a pool that does not answer costs a start [`PATIENCE`] at most, and then it is as if there were none.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use matchlock_model::StateLayout;
use matchlock_net::namespace::Unfurnished;
use matchlock_vmm::Spare;
use thiserror::Error;
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

use super::{
    ImageFile, Wish,
    message::{Answer, Ask, MACHINE_FDS, receive, send},
};
use crate::socket;

/// How long a pool may take for an answer: it has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take to end itself and its spares.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Why a pool goes on.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StopError {
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("process {0}, which keeps spare sandboxes, does not take requests")]
    Ask(u32, #[source] io::Error),
    #[error("process {0}, which keeps spare sandboxes, did not end within {1:?}")]
    Slow(u32, Duration),
}

/// What a process keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The process.
    pub pid: u32,
    /// What it is to keep.
    pub wish: Wish,
    /// Spares that wait to be taken.
    pub ready: u32,
}

/// A spare that fits.
#[derive(Debug)]
pub(crate) struct Adoptable {
    pub(crate) spare: Spare,
    /// Where its network interface leads.
    pub(crate) namespace: Option<Unfurnished>,
    /// It has the image already.
    pub(crate) has_image: bool,
    /// The way back to its pool: as long as this is open the sandbox is left alone, for a moment.
    pub(crate) pool: UnixStream,
}

/// A spare restored from this template, rather one that has this image than one that takes any. Where nobody keeps any, that is found
/// out at once.
pub(crate) async fn adoptable(state: &StateLayout, template: &str, image: ImageFile) -> Option<Adoptable> {
    let pools = reach(state).inspect_err(|error| tracing::debug!("spare sandboxes: {error}")).unwrap_or_default();
    let pools = pools.into_iter().filter_map(|(pid, pool)| Some((pid, UnixStream::from_std(pool.ok()?).ok()?)));
    let mut pools: Vec<_> = pools.collect();
    for image in [Some(image), None] {
        let mut others = Vec::new();
        for (pid, pool) in pools {
            let wanted = Ask::Spare { template: template.to_owned(), image };
            match ask(&pool, &wanted).await.and_then(spare_in) {
                Ok(Some((spare, namespace))) => {
                    return Some(Adoptable { spare, namespace, has_image: image.is_some(), pool });
                }
                Ok(None) => others.push((pid, pool)),
                Err(error) => tracing::debug!("spare sandboxes of process {pid}: {error}"),
            }
        }
        pools = others;
    }
    None
}

fn spare_in((answer, mut fds): (Answer, Vec<OwnedFd>)) -> io::Result<Option<(Spare, Option<Unfurnished>)>> {
    let Answer::Spare { pid } = answer else { return Ok(None) };
    let namespace = if fds.len() > MACHINE_FDS { fds.pop().map(Unfurnished::from) } else { None };
    let fds = <[_; MACHINE_FDS]>::try_from(fds).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some((Spare::from_parts(pid, fds)?, namespace)))
}

/// What is kept at the moment.
///
/// # Errors
/// The folder of their sockets cannot be read.
pub async fn kept(state: &StateLayout) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for (pid, pool) in reach(state)? {
        let Ok(pool) = pool else { continue };
        match ask(&UnixStream::from_std(pool)?, &Ask::Show).await {
            Ok((Answer::Shown { wish, ready }, _)) => all.push(Kept { pid, wish, ready }),
            Ok(_) => {}
            Err(error) => tracing::debug!("spare sandboxes of process {pid}: {error}"),
        }
    }
    Ok(all)
}

/// End every pool of this user and all its spares, at the same time; returns how many there were.
///
/// # Errors
/// [`StopError`] for the first that goes on, when all others have ended.
pub async fn stop(state: &StateLayout) -> Result<usize, StopError> {
    let pools = reach(state).map_err(|e| StopError::Read(state.warm(), e))?;
    let count = pools.len();
    let stopped = pools.into_iter().map(|(pid, pool)| async move {
        let stopped = timeout(STOP_DEADLINE, stop_one(pool)).await;
        stopped.map_err(|_| StopError::Slow(pid, STOP_DEADLINE))?.map_err(|e| StopError::Ask(pid, e))
    });
    let outcomes = stopped.collect::<JoinSet<_>>().join_all().await;
    outcomes.into_iter().collect::<Result<(), _>>().map(|()| count)
}

async fn stop_one(pool: io::Result<StdStream>) -> io::Result<()> {
    let pool = UnixStream::from_std(pool?)?;
    send(&pool, &Ask::Stop, &[]).await?;
    // Its end is the answer.
    match receive::<Answer>(&pool).await {
        Err(error) if is_end(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// Remove what pools that were killed have left: their sockets.
///
/// # Errors
/// The folder of the sockets cannot be read.
pub fn sweep(state: &StateLayout) -> io::Result<()> {
    reach(state).map(drop)
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

async fn ask(pool: &UnixStream, question: &Ask) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let answered = async {
        send(pool, question, &[]).await?;
        receive(pool).await
    };
    timeout(PATIENCE, answered).await?
}

/// A connection to each pool, or why there is none. Sockets whose process is gone are removed.
fn reach(state: &StateLayout) -> io::Result<Vec<(u32, io::Result<StdStream>)>> {
    let folder = match std::fs::read_dir(state.warm()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        folder => folder?,
    };
    let mut pools = Vec::new();
    for entry in folder {
        let path = entry?.path();
        let Some(pid) = pid_of(&path) else { continue };
        // One that is just being made belongs to a process that lives.
        if !Path::new("/proc").join(pid.to_string()).exists() {
            remove(&path);
        } else if path.extension().is_some_and(|kind| kind == StateLayout::WARM_SOCKET) {
            match socket::connect_now(&path) {
                // The number is another process's by now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove(&path),
                pool => pools.push((pid, pool)),
            }
        }
    }
    pools.sort_by_key(|(pid, _)| *pid);
    Ok(pools)
}

fn pid_of(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!("{}: {error}", path.display());
    }
}
