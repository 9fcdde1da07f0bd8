//! The owner's side of a holder: it is started, asked for the namespace, and later for sockets; and it is gone with its owner.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType,
    sockopt::{Timeout, set_socket_timeout},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Mutex, oneshot},
    time::timeout,
};

use super::{
    Doors, Error, HolderCommand, Namespace, Plan, message,
    message::{Replier, Request},
};
use crate::watched::watched;

/// For the whole namespace; it takes some 15 ms.
const BUILD_DEADLINE: Duration = Duration::from_secs(20);
/// For one socket; it takes less than a millisecond.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);

/// The process that keeps the namespace and makes further sockets in it. It ends when this is dropped.
#[derive(Debug)]
pub struct Holder {
    socket: Mutex<AsyncFd<OwnedFd>>,
    asked: AtomicU64,
}

/// Make a namespace.
///
/// # Errors
/// What is missing on this host, with the remedy where there is one.
pub async fn create(holder: HolderCommand, plan: Plan) -> Result<Namespace, Error> {
    let (answer, answered) = oneshot::channel();
    // The holder is killed when the thread ends that started it: this one, which stays until the holder is gone.
    std::thread::Builder::new()
        .name("net-holder".into())
        .spawn(move || start(&holder, &plan, answer))
        .map_err(|e| Error::step("start a thread", &e))?;
    let gone = || Error::step("make the sandbox's network", &io::ErrorKind::BrokenPipe.into());
    let (tap, doors, socket) = answered.await.map_err(|_| gone())??;
    let socket = watched(socket).map_err(|e| Error::step("watch the holder", &e))?;
    Ok(Namespace { tap, doors, holder: Holder { socket: Mutex::new(socket), asked: AtomicU64::new(0) } })
}

type Built = (OwnedFd, Doors, OwnedFd);

fn start(holder: &HolderCommand, plan: &Plan, answer: oneshot::Sender<Result<Built, Error>>) {
    let started = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)
        .and_then(|(ours, theirs)| {
            let mut command = Command::new(&holder.program);
            // Its output would be the sandbox's; all it has to say goes through the socket.
            command.args(&holder.arguments).stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
            Ok((ours, command.spawn()?))
        });
    let (ours, mut child) = match started {
        Ok(started) => started,
        Err(e) => return drop(answer.send(Err(Error::step("start the holder of the sandbox's network", &e)))),
    };
    let built = build(&ours, plan).map(|(tap, doors)| (tap, doors, ours));
    if built.is_err() {
        // It may hang.
        let _ = child.kill();
    }
    // Dropped unanswered, when nobody waits any more, the holder's socket closes.
    drop(answer.send(built));
    let _ = child.wait();
}

fn build(holder: &OwnedFd, plan: &Plan) -> Result<(OwnedFd, Doors), Error> {
    let talk = |e: io::Error| Error::step("make the sandbox's network", &e);
    set_socket_timeout(holder, Timeout::Recv, Some(BUILD_DEADLINE)).map_err(|e| talk(e.into()))?;
    message::send(holder, &Request::Build(*plan), &[]).map_err(talk)?;
    let (answer, descriptors) = message::receive::<Result<(), Error>>(holder)
        .and_then(|answer| answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        .map_err(talk)?;
    answer?;
    rustix::io::ioctl_fionbio(holder, true).map_err(|e| talk(e.into()))?;
    let mut descriptors = descriptors.into_iter();
    let tap = descriptors.next();
    let doors: Option<[OwnedFd; Doors::COUNT]> = descriptors.collect::<Vec<_>>().try_into().ok();
    match (tap, doors) {
        (Some(tap), Some(doors)) => Ok((tap, Doors::from_descriptors(doors))),
        _ => Err(talk(io::ErrorKind::InvalidData.into())),
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
