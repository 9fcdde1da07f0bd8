//! What a holder is asked, and how messages with descriptors cross the socket between it and its owner.
//!
//! A socket of packets: one message each, no framing. Both ends are this program, so a message that cannot be read is a
//! defect.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Doors, Plan};

/// Longest message, by far.
const MAX_MESSAGE: usize = 4096;
/// Most descriptors with one message: the doors.
pub(super) const MAX_DESCRIPTORS: usize = Doors::COUNT;

/// To the holder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The first: make the namespace and a TAP in it, or a TAP among the host's links. Answered with `Result<(), Error>` (the
    /// module's) and, if it was made, with the TAP.
    Create(Where),
    /// The second: make what goes by this plan. Answered with `Result<Furnishing, Error>` and, if it was made, with the doors.
    Furnish(Plan),
    /// The second once more, on the host: for the sandbox of this id. Answered as the first, with the doors.
    FurnishOnHost(Plan, u32),
    /// Make a socket that speaks for `from` to the guest's `to`. Answered with [`Replier`] and, if it was made, with it.
    Reply {
        /// Comes back with the answer.
        number: u64,
        from: SocketAddr,
        to: SocketAddr,
    },
}

/// Where a link is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Where {
    Namespace,
    Host,
}

/// What came of the second request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Furnishing {
    Done,
    /// The link is among the host's, where nothing is made before its undoing is written down.
    OnHost,
}

/// From the holder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Replier {
    pub(super) number: u64,
    /// An errno.
    pub(super) made: Result<(), i32>,
}

pub(super) fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The other end may be gone, which must not end this one by a signal.
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, or `None` when the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let message = postcard::from_bytes(&bytes[..received.bytes]).map_err(io::Error::other)?;
    Ok(Some((message, descriptors)))
}
