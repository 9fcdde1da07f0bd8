//! The owner's side of a holder: it is started, asked for the namespace, and later for sockets; and it is gone with its owner.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Mutex, oneshot},
    time::timeout,
};

use super::{
    Doors, Error, HolderCommand, Plan, message,
    message::{Replier, Request},
};
use crate::watched::watched;

/// For the namespace and its TAP, and once more for what goes into it; they take some 10 ms each.
const BUILD_DEADLINE: Duration = Duration::from_secs(20);
/// For one socket; it takes less than a millisecond.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);

/// What was being done when the socket to a holder failed.
const BUILDING: &str = "make the sandbox's network";

/// A namespace with nothing but a TAP in it, which is whose this is. It ends when this is dropped.
#[derive(Debug)]
pub struct Unfurnished(OwnedFd);

/// The process that keeps the namespace and makes further sockets in it. It ends when this is dropped.
#[derive(Debug)]
pub struct Holder {
    socket: Mutex<AsyncFd<OwnedFd>>,
    asked: AtomicU64,
}

/// Make a namespace; also returns its TAP, for the VMM.
///
/// # Errors
/// What is missing on this host, with the remedy where there is one.
pub async fn create(holder: HolderCommand) -> Result<(OwnedFd, Unfurnished), Error> {
    let (answer, started) = oneshot::channel();
    // A child has to be waited for, whoever owns what it holds by then.
    std::thread::Builder::new()
        .name("net-holder".into())
        .spawn(move || start(&holder, answer))
        .map_err(|e| Error::step("start a thread", &e))?;
    let started = started.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let socket = started.map_err(|e| Error::step("start the holder of the sandbox's network", &e))?;
    let socket = watched(socket).map_err(|e| Error::step("watch the holder", &e))?;
    let [tap] = build(&socket, &Request::Create).await?;
    Ok((tap, Unfurnished(socket.into_inner())))
}

/// Start it, say so, and wait until it has ended.
fn start(holder: &HolderCommand, answer: oneshot::Sender<io::Result<OwnedFd>>) {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let started = pair.map_err(io::Error::from).and_then(|(ours, theirs)| {
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new(&holder.program);
        // Its output would be the sandbox's; all it has to say goes through the socket. The user's environment may hold
        // secrets, and the user's folder may want to be unmounted.
        command.args(&holder.arguments).stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).current_dir("/");
        Ok((ours, command.spawn()?))
    });
    let (ours, mut child) = match started {
        Ok(started) => started,
        Err(e) => return drop(answer.send(Err(e))),
    };
    // Dropped unanswered, when nobody waits any more, the holder's socket closes, and it ends.
    drop(answer.send(Ok(ours)));
    let _ = child.wait();
}

/// Have the holder make something that consists of so many descriptors.
async fn build<const N: usize>(holder: &AsyncFd<OwnedFd>, request: &Request) -> Result<[OwnedFd; N], Error> {
    let talk = |e: io::Error| Error::step(BUILDING, &e);
    message::send(holder.get_ref(), request, &[]).map_err(talk)?;
    let answer = holder.async_io(Interest::READABLE, |fd| message::receive::<Result<(), Error>>(fd.as_fd()));
    let answer = timeout(BUILD_DEADLINE, answer).await.map_err(|late| talk(late.into()))?;
    let (answer, descriptors) =
        answer.and_then(|answer| answer.ok_or(io::ErrorKind::UnexpectedEof.into())).map_err(talk)?;
    answer?;
    descriptors.try_into().map_err(|_| talk(io::ErrorKind::InvalidData.into()))
}

impl Unfurnished {
    /// Put into it what goes by this plan.
    ///
    /// # Errors
    /// What is missing on this host, with the remedy where there is one; the namespace has ended then.
    pub async fn furnish(self, plan: Plan) -> Result<(Doors, Holder), Error> {
        let socket = watched(self.0).map_err(|e| Error::step("watch the holder", &e))?;
        let doors = build(&socket, &Request::Furnish(plan)).await?;
        Ok((Doors::from_descriptors(doors), Holder { socket: Mutex::new(socket), asked: AtomicU64::new(0) }))
    }
}

/// The namespace is whose the descriptor is, in whatever process: it does not block.
impl From<Unfurnished> for OwnedFd {
    fn from(unfurnished: Unfurnished) -> Self {
        unfurnished.0
    }
}

/// One that was taken apart by the reverse.
impl From<OwnedFd> for Unfurnished {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Holder {
    /// A socket that speaks for `from` to the guest's `to`, and receives what the guest sends from there to there.
    ///
    /// # Errors
    /// If the holder is gone or cannot make it.
    pub(crate) async fn reply_socket(&self, from: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let socket = self.socket.lock().await;
        message::send(socket.get_ref(), &Request::Reply { number, from, to }, &[])?;
        let (made, mut descriptors) = timeout(REPLY_DEADLINE, async {
            loop {
                let answer = socket.async_io(Interest::READABLE, |fd| message::receive::<Replier>(fd.as_fd())).await?;
                let (Replier { number: answered, made }, descriptors) = answer.ok_or(io::ErrorKind::BrokenPipe)?;
                // One that was asked for earlier was not waited for.
                if answered == number {
                    return io::Result::Ok((made, descriptors));
                }
            }
        })
        .await??;
        made.map_err(io::Error::from_raw_os_error)?;
        descriptors.pop().map(UdpSocket::from).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
