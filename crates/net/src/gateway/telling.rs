//! What is told of a connection or a flow when it is over, also when that is because the gateway is ended.

use std::{sync::Arc, time::Instant};

use super::{ClientAddr, Counted, End, Moved, OrigDst, Shared, What};
use crate::policy::Allowed;

/// Filled in on the way; dropped, it tells.
pub(super) struct Telling {
    shared: Arc<Shared>,
    ends: (ClientAddr, OrigDst),
    began: Instant,
    what: fn(Moved) -> What,
    pub(super) allowed: Option<Allowed>,
    /// What we have carried ourselves.
    pub(super) moved: Moved,
    /// What the inspector has.
    pub(super) counted: Arc<Counted>,
    /// To begin with, how it ends if nobody ends it.
    pub(super) end: End,
}

impl Telling {
    pub(super) fn of(
        shared: Arc<Shared>,
        (client, destination): (ClientAddr, OrigDst),
        what: fn(Moved) -> What,
        end: End,
    ) -> Self {
        let counted = Arc::new(Counted::new(shared.alive.clone()));
        let (ends, began) = ((client, destination), Instant::now());
        Self { shared, ends, began, what, allowed: None, moved: Moved::default(), counted, end }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.counted.add(self.moved);
        let what = (self.what)(self.counted.moved());
        self.shared.tell(self.ends, what, self.allowed.take(), self.end.clone(), self.began);
    }
}
