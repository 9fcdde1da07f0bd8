//! The supervisor's side.

use std::{fmt, io, path::Path, sync::Arc};

use matchlock_model::one_line;
use matchlock_net::{
    guard::Guard,
    policy::{Mode, NotIntercepting, Target},
    secret::{Current, Value},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::{Answer, CLIENT_DEADLINE, MAX_CLIENTS, Request, line};
use crate::{network::explain, socket};

/// What can be changed, and asked about. By default nothing, as where there is no network.
#[derive(Default)]
pub struct Control {
    /// The sandbox's policy; `None` where it has no network.
    pub guard: Option<Guard>,
    /// What is put in on the way.
    pub secrets: Current,
}

/// The service. When this is dropped it ends, with whoever is being served.
#[derive(Debug)]
pub struct Service {
    task: tokio::task::JoinHandle<()>,
}

/// Serve `control.sock` at `path` until the returned guard is dropped. On a runtime.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(path: &Path, control: Control) -> io::Result<Service> {
    let listener = UnixListener::from_std(socket::listen(path)?)?;
    let control = Arc::new(control);
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let task = tokio::spawn(async move {
        let mut clients = JoinSet::new();
        // It is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let client = socket::accept(&listener).await;
            while clients.try_join_next().is_some() {}
            let control = Arc::clone(&control);
            clients.spawn(async move {
                if let Err(error) = control.serve(client).await {
                    tracing::debug!("control.sock: {error}");
                }
                drop(place);
            });
        }
    });
    Ok(Service { task })
}

impl Control {
    async fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        let answer = match timeout(CLIENT_DEADLINE, line::receive(&mut client)).await? {
            Ok(request) => self.answer(request).await,
            Err(error) => Answer::Failed(format!("not understood: {error}")),
        };
        timeout(CLIENT_DEADLINE, line::send(&mut client, &answer)).await?
    }

    async fn answer(&self, request: Request) -> Answer {
        let answer = match request {
            Request::AllowListAdd { hosts } => self.change(&hosts, Guard::add),
            Request::AllowListDelete { hosts } => self.change(&hosts, Guard::delete),
            Request::SecretSet { name, value } => self.rotate(&name, value),
            Request::Explain { url, method } => match &self.guard {
                None => Err("the sandbox has no network: nothing is allowed".to_owned()),
                Some(guard) => explain(guard, &method, &url).await.map_err(|error| one_line(&error)),
            },
        };
        answer.unwrap_or_else(Answer::Failed)
    }

    fn change(
        &self,
        hosts: &[String],
        change: impl Fn(&Guard, Vec<Target>) -> Result<Vec<Target>, NotIntercepting>,
    ) -> Result<Answer, String> {
        let sealed = self.guard.as_ref().filter(|guard| guard.policy().mode == Mode::Intercept);
        let unavailable =
            || "allow-list updates unavailable: sandbox was started without network interception".to_owned();
        let guard = sealed.ok_or_else(unavailable)?;
        let targets = hosts.iter().map(|host| host.parse().map_err(|e| format!("invalid allow-list host: {e}")));
        let targets = targets.collect::<Result<Vec<Target>, _>>()?;
        let changed = change(guard, targets).map_err(|open| open.to_string())?;
        let words = |targets: &[Target]| targets.iter().map(ToString::to_string).collect();
        Ok(Answer::AllowList { changed: words(&changed), allowed_hosts: words(&guard.policy().allowed) })
    }

    fn rotate(&self, name: &str, value: String) -> Result<Answer, String> {
        let value = Value::new(value.into_bytes()).map_err(|error| error.to_string())?;
        let done = self.secrets.rotate(name, value);
        done.then_some(Answer::Done).ok_or_else(|| format!("the sandbox was started without a secret {name}"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("guard", &self.guard).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
