//! What a pool and those who ask it say to each other: one line of JSON each way, a spare's descriptors beside the answer.
//!
//! Both ends are this program, perhaps in two versions: a line that cannot be understood means that there is no spare.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

use super::{ImageFile, Wish};

/// Bytes of a line. Names of images are the longest part of one.
const MAX_LINE: usize = 16 * 1024;

/// Descriptors of a spare's machine; one with a network interface has a namespace as well.
pub(super) const MACHINE_FDS: usize = 5;

/// Most descriptors of one spare.
const SPARE_FDS: usize = MACHINE_FDS + 1;

/// What is asked of a pool.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A spare that was restored from this template, with this image or with none.
    Spare { template: String, image: Option<ImageFile> },
    /// What the pool keeps.
    Show,
    /// To end, and all spares with it.
    Stop,
}

/// What it answers. To [`Ask::Stop`] it answers by ending.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// This one, whose descriptors come along.
    Spare { pid: i32 },
    /// None that fits.
    None,
    /// This, of which so many wait.
    Shown { wish: Wish, ready: u32 },
}

/// Send a line, and descriptors along with it.
pub(super) async fn send(stream: &UnixStream, message: &impl Serialize, fds: &[OwnedFd]) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut sent = 0;
    while sent < line.len() {
        let attempt = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SPARE_FDS))];
            let mut along = SendAncillaryBuffer::new(&mut space);
            // They go with the first byte.
            if sent == 0 && !fds.is_empty() && !along.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(sendmsg(stream, &[IoSlice::new(&line[sent..])], &mut along, SendFlags::NOSIGNAL)?)
        };
        sent += stream.async_io(Interest::WRITABLE, attempt).await?;
    }
    Ok(())
}

/// Receive a line, and the descriptors that come along with it.
pub(super) async fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut chunk = [0; 4096];
        let attempt = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SPARE_FDS))];
            let mut along = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut along, RecvFlags::CMSG_CLOEXEC)?;
            for message in along.drain() {
                if let RecvAncillaryMessage::ScmRights(passed) = message {
                    fds.extend(passed);
                }
            }
            Ok(received.bytes)
        };
        match stream.async_io(Interest::READABLE, attempt).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend_from_slice(&chunk[..count]),
        }
        if line.len() > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line that is too long"));
        }
    }
    Ok((serde_json::from_slice(&line)?, fds))
}
