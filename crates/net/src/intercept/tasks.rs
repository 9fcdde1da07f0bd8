//! The tasks of one connection, which end with it.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hyper::rt::Executor;
use tokio::task::JoinSet;

/// The one who holds this holds the tasks: dropped, it ends them.
#[derive(Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Who may start further ones. What it is given when the tasks have ended is dropped.
#[derive(Clone)]
pub(super) struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }
}

impl Spawner {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// For what hyper starts: HTTP/2's streams.
impl<F: Future + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        self.spawn(async move { drop(task.await) });
    }
}
