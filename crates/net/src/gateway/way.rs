//! What is allowed, and how it is carried: the answers of [`Decide`](super::Decide), and who takes over what is inspected.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::net::TcpStream;

use super::{ClientAddr, Counted, End, OrigDst};
use crate::policy::{Allowed, Name};

/// Leave to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What allows it.
    pub allowed: Allowed,
    /// How.
    pub way: Way,
}

/// How a connection is carried. Only TCP has a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To exactly this address, and as it is.
    Raw,
    /// By the [`Inspector`], which is given the names that the guest can have meant.
    Inspect(Vec<Name>),
    /// As it is, unless the guest opens with TLS or HTTP: then as [`Way::Inspect`]. The address is dialled first, for where the
    /// server speaks first the guest waits for it.
    ByOpening(Vec<Name>),
}

/// A connection of the guest's whose TLS and HTTP end here. Nothing has been answered to it yet.
#[derive(Debug)]
pub struct Inspection {
    /// The guest's end.
    pub guest: TcpStream,
    /// What was read of it already.
    pub opening: Vec<u8>,
    /// Where it came from.
    pub client: ClientAddr,
    /// Where it wanted to go: the address that policy has judged.
    pub destination: OrigDst,
    /// The names that the guest was given this address for and that may be had at this port; at least one. The name that it
    /// says it means has to be judged again, with the address that is going to be dialled.
    pub names: Vec<Name>,
    /// Where its bytes are counted. To be kept until all is told that is to be told of it.
    pub counted: Arc<Counted>,
}

/// How an inspected connection has ended.
pub type Inspected = Pin<Box<dyn Future<Output = End> + Send>>;

/// Who terminates TLS and HTTP. Cancelled, it ends the connection.
pub trait Inspector: Send + Sync {
    /// Serve one connection to its end.
    fn inspect(&self, inspection: Inspection) -> Inspected;
}

impl Grant {
    /// To the address that was judged, and nothing looked at.
    #[must_use]
    pub const fn raw(allowed: Allowed) -> Self {
        Self { allowed, way: Way::Raw }
    }
}
