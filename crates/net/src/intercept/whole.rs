//! Bodies that are kept until they are whole, and how much of them there is at once in a sandbox.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::limits;

/// Room for the bodies of all connections of a sandbox. Clones share it.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// Part of the room, for one body.
pub(super) struct Place(OwnedSemaphorePermit);

/// Why a body did not become whole.
pub(super) enum Unwhole<E> {
    Broken(E),
    Silent,
    /// It grows while it is read, and there is no room for that.
    Grown,
}

/// Gives the room back when the last that has the bytes is gone.
struct Kept {
    bytes: Vec<u8>,
    _place: Place,
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(limits::WHOLE_BODIES)))
    }

    /// For a body of this length, if there is room now.
    pub(super) fn take(&self, length: u64) -> Option<Place> {
        let length = u32::try_from(length).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(length).ok().map(Place)
    }
}

impl Place {
    /// Read the body to its end.
    pub(super) async fn fill<B: Body<Data = Bytes>>(
        mut self,
        room: &Room,
        mut body: Pin<&mut B>,
    ) -> Result<Bytes, Unwhole<B::Error>> {
        let mut bytes = Vec::with_capacity(self.0.num_permits());
        loop {
            let piece = timeout(limits::PIECE_DEADLINE, body.frame()).await.map_err(|_| Unwhole::Silent)?;
            let Some(piece) = piece.transpose().map_err(Unwhole::Broken)? else { break };
            let Ok(piece) = piece.into_data() else { continue };
            let over = (bytes.len() + piece.len()).saturating_sub(self.0.num_permits());
            if over > 0 {
                self.0.merge(room.take(over as u64).ok_or(Unwhole::Grown)?.0);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Bytes::from_owner(Kept { bytes, _place: self }))
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::pin,
        task::{Context, Poll},
    };

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;

    /// A body of which nothing comes.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_grows_takes_more_room_while_there_is_some_and_gives_it_back() {
        let room = Room::new();
        let fill = async || {
            let place = room.take(1).unwrap();
            place.fill(&room, pin!(Full::from("hello"))).await
        };
        let whole = fill().await.ok().unwrap();
        assert_eq!((&*whole, room.0.available_permits()), (&b"hello"[..], limits::WHOLE_BODIES - 5));
        let others = room.take((limits::WHOLE_BODIES - 9) as u64).unwrap();
        assert!(matches!(fill().await, Err(Unwhole::Grown)));
        drop((whole, others));
        assert_eq!(room.0.available_permits(), limits::WHOLE_BODIES);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_which_nothing_comes_gives_its_room_back() {
        let room = Room::new();
        let filled = room.take(5).unwrap().fill(&room, pin!(Silent)).await;
        assert!(matches!(filled, Err(Unwhole::Silent)));
        assert_eq!(room.0.available_permits(), limits::WHOLE_BODIES);
    }
}
