//! `exec.sock`: other processes reach the guest through the supervisor.
//!
//! The socket speaks the guest link's own protocol, the supervisor in the guest's place. It checks what is asked, fills in
//! the sandbox's defaults, and then only carries frames across: credit passes from end to end, so that neither a slow
//! client nor a hostile guest makes it hold more than one window per channel.

use std::{io, path::Path, sync::Arc};

use matchlock_model::{SandboxSpec, one_line};
use matchlock_wire::{Event, Exec, Failure, FailureKind, Note, Request};
use tokio::net::{UnixListener, UnixStream};

use crate::{
    exec::with_defaults,
    link::{Link, Session},
    socket,
};

/// Serve `exec.sock` at `path` until the returned guard is dropped.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn serve(path: &Path, guest: Link, spec: Arc<SandboxSpec>) -> io::Result<Relay> {
    let listener = UnixListener::from_std(socket::listen(path)?)?;
    let task = tokio::spawn(async move {
        loop {
            let client = socket::accept(&listener).await;
            tokio::spawn(serve_client(client, guest.clone(), Arc::clone(&spec)));
        }
    });
    Ok(Relay { task })
}

/// Ends the service when dropped; sessions under way go on until the guest ends.
#[derive(Debug)]
pub(crate) struct Relay {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_client(client: UnixStream, guest: Link, spec: Arc<SandboxSpec>) {
    let Ok(mut incoming) = Link::to_host(client) else { return };
    while let Some((session, request)) = incoming.accept().await {
        match request {
            Request::Exec(exec) => {
                tokio::spawn(carry(session, with_defaults(exec, &spec), guest.clone()));
            }
            Request::Park(_) | Request::Warm(_) | Request::Start(_) | Request::PowerOff { .. } => {
                refuse(&session, "only the sandbox's own process may ask for that");
            }
        }
    }
}

async fn carry(client: Session, exec: Exec, guest: Link) {
    match guest.open(Request::Exec(exec)).await {
        Ok(session) => splice(client, session).await,
        Err(error) => refuse(&client, &one_line(&error)),
    }
}

fn refuse(client: &Session, message: &str) {
    client.note(Note::Failed(Failure { kind: FailureKind::Internal, message: message.to_owned() }));
    client.end();
}

/// Carry everything between a client's session and the guest's until one of them is over.
async fn splice(mut client: Session, mut guest: Session) {
    loop {
        let (event, to) = tokio::select! {
            event = client.next() => (event, &guest),
            event = guest.next() => (event, &client),
        };
        match event {
            Some(Event::Note(_, note)) => to.note(note),
            Some(Event::Data(_, channel, bytes)) => to.send(channel, bytes),
            Some(Event::Credit(_, channel, count)) => to.grant(channel, count),
            Some(Event::Eof(_, channel)) => to.eof(channel),
            Some(Event::Stopped(_, channel)) => to.stop(channel),
            // Dropping both sessions ends the one that is not over yet.
            Some(Event::Ended(_) | Event::Hello(_) | Event::Opened(..)) | None => return,
        }
    }
}
