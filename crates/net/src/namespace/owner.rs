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
use serde::de::DeserializeOwned;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Mutex, oneshot},
    time::timeout,
};

use super::{
    Addressing, Doors, Error, HolderCommand, Plan,
    doors::Raw,
    message,
    message::{Furnishing, Replier, Request, Where},
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

/// What became of it.
#[derive(Debug)]
pub enum Furnished {
    /// A network of its own.
    Private(Doors, Holder),
    /// Nothing yet: its TAP is among the links of the host.
    OnHost(OnHost),
}

/// A TAP among the links of the host, where user namespaces are not to be had. It ends when this is dropped.
#[derive(Debug)]
pub struct OnHost {
    socket: AsyncFd<OwnedFd>,
    plan: Plan,
}

/// The process that keeps the namespace and makes further sockets in it. It ends when this is dropped.
#[derive(Debug)]
pub struct Holder {
    socket: Mutex<AsyncFd<OwnedFd>>,
    asked: AtomicU64,
}

/// Make a namespace, or a place among the host's links where that is forbidden; also returns its TAP, for the VMM.
///
/// # Errors
/// What is missing on this host, with the remedy where there is one.
pub async fn create(holder: HolderCommand) -> Result<(OwnedFd, Unfurnished), Error> {
    match create_at(holder.clone(), Where::Namespace).await {
        Err(forbidden) if forbidden.is_without_namespaces() => {
            create_at(holder, Where::Host).await.map_err(|other| other.after(&forbidden))
        }
        created => created,
    }
}

async fn create_at(holder: HolderCommand, place: Where) -> Result<(OwnedFd, Unfurnished), Error> {
    let (answer, started) = oneshot::channel();
    // A child has to be waited for, whoever owns what it holds by then.
    std::thread::Builder::new()
        .name("net-holder".into())
        .spawn(move || start(&holder, answer))
        .map_err(|e| Error::step("start a thread", &e))?;
    let started = started.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let socket = started.map_err(|e| Error::step("start the holder of the sandbox's network", &e))?;
    let socket = watch(socket)?;
    let ((), taps) = build(&socket, &Request::Create(place)).await?;
    let [tap] = taps.try_into().map_err(|_| unreadable())?;
    Ok((tap, Unfurnished(socket.into_inner())))
}

/// Start it, say so, and wait until it has ended.
fn start(holder: &HolderCommand, answer: oneshot::Sender<io::Result<OwnedFd>>) {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let started = pair.map_err(io::Error::from).and_then(|(ours, theirs)| {
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new(&holder.program);
        // Its output would be the sandbox's; all it has to say goes through the socket. The user's environment may hold
        // secrets, and is no business of a process that may have more rights; the user's folder may want to be unmounted.
        command.args(&holder.arguments).stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_clear().current_dir("/");
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

/// Have the holder make something: what it says of it, and its descriptors.
async fn build<T: DeserializeOwned>(holder: &AsyncFd<OwnedFd>, request: &Request) -> Result<(T, Vec<OwnedFd>), Error> {
    let talk = |e: io::Error| Error::step(BUILDING, &e);
    message::send(holder.get_ref(), request, &[]).map_err(talk)?;
    let answer = holder.async_io(Interest::READABLE, |fd| message::receive::<Result<T, Error>>(fd.as_fd()));
    let answer = timeout(BUILD_DEADLINE, answer).await.map_err(|late| talk(late.into()))?;
    let (answer, descriptors) =
        answer.and_then(|answer| answer.ok_or(io::ErrorKind::UnexpectedEof.into())).map_err(talk)?;
    Ok((answer?, descriptors))
}

fn watch(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    watched(socket).map_err(|e| Error::step("watch the holder", &e))
}

fn unreadable() -> Error {
    Error::step(BUILDING, &io::ErrorKind::InvalidData.into())
}

impl Unfurnished {
    /// Put into it what goes by this plan.
    ///
    /// # Errors
    /// What is missing on this host, with the remedy where there is one; the namespace has ended then.
    pub async fn furnish(self, plan: Plan) -> Result<Furnished, Error> {
        let socket = watch(self.0)?;
        let (furnishing, doors) = build(&socket, &Request::Furnish(plan)).await?;
        match furnishing {
            Furnishing::Done => {
                Holder::of(socket, doors, Raw::Echo).map(|(doors, holder)| Furnished::Private(doors, holder))
            }
            Furnishing::OnHost => Ok(Furnished::OnHost(OnHost { socket, plan })),
        }
    }
}

impl OnHost {
    /// Make what goes by the plan, for the sandbox of this id. Whatever becomes of it, [`HostLink::remove`](super::HostLink::remove)
    /// takes it away: that is to be written down before. The holder does so, too, when it ends in order.
    ///
    /// # Errors
    /// What is missing on this host, with the remedy where there is one; what there was has been taken away then.
    pub async fn furnish(self, id: u32) -> Result<(Doors, Holder), Error> {
        let ((), doors) = build(&self.socket, &Request::FurnishOnHost(self.plan, id)).await?;
        Holder::of(self.socket, doors, Raw::Datagrams)
    }

    /// The link's addresses.
    #[must_use]
    pub const fn addressing(&self) -> &Addressing {
        &self.plan.addressing
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
    fn of(
        socket: AsyncFd<OwnedFd>,
        doors: Vec<OwnedFd>,
        raw: fn(OwnedFd, OwnedFd) -> Raw,
    ) -> Result<(Doors, Self), Error> {
        let doors = Doors::from_descriptors(doors.try_into().map_err(|_| unreadable())?, raw);
        Ok((doors, Self { socket: Mutex::new(socket), asked: AtomicU64::new(0) }))
    }

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
