//! What becomes of a connection when its server has agreed to a WebSocket (RFC 6455): bytes, both ways.
//!
//! A placeholder in a message stays one: what a guest sends is masked, and nothing is put into it. What the server sends is looked
//! through for values of secrets; there, a value within one frame becomes asterisks, as many as it is long, so that the frame
//! stays whole. Compression, which would hide it, is not agreed to where there are secrets.

use std::{io, sync::Arc};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use matchlock_model::one_line;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{account::Account, frames::Frames, server::Lease};
use crate::{gateway::End, secret::Replacer};

/// Read at once.
const LENGTH: usize = 16 * 1024;

/// Carry it until both ends have closed.
pub(super) async fn carry(
    guest: OnUpgrade,
    server: OnUpgrade,
    lease: Option<Lease>,
    masker: Option<Replacer>,
    account: Arc<Account>,
) {
    let ends = tokio::try_join!(guest, server);
    // Not before: the connection to the server ends with whoever can use it.
    drop(lease);
    let outcome = match ends {
        Ok((guest, server)) => both_ways(guest, server, masker, &account).await.map_err(|e| one_line(&e)),
        Err(e) => Err(one_line(&e)),
    };
    if let Err(why) = outcome {
        account.ended(End::Failed(format!("its WebSocket breaks off: {why}")));
    }
}

async fn both_ways(guest: Upgraded, server: Upgraded, masker: Option<Replacer>, account: &Account) -> io::Result<()> {
    let (from_guest, to_guest) = tokio::io::split(TokioIo::new(guest));
    let (from_server, to_server) = tokio::io::split(TokioIo::new(server));
    let out = one_way(from_guest, to_server, None, |count| account.moved_from_guest(count));
    let back = one_way(from_server, to_guest, masker.map(Frames::new), |count| account.moved_to_guest(count));
    tokio::try_join!(out, back).map(drop)
}

async fn one_way(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
    mut frames: Option<Frames>,
    moved: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; LENGTH];
    loop {
        let count = match from.read(&mut buffer).await {
            // Closed without saying so in TLS, as many do.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        match &mut frames {
            None => to.write_all(&buffer[..count]).await?,
            Some(frames) => {
                let passed = if count == 0 { frames.finish() } else { frames.feed(&buffer[..count]) };
                to.write_all(&passed.map_err(io::Error::other)?).await?;
            }
        }
        to.flush().await?;
        moved(count as u64);
        if count == 0 {
            return to.shutdown().await;
        }
    }
}
