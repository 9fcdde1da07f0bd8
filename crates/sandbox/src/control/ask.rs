//! The side of other processes.

use std::io;

use matchlock_model::SandboxId;
use matchlock_store::Sandbox;
use thiserror::Error;
use tokio::time::timeout;

use super::{ANSWER_DEADLINE, Answer, Request, line};
use crate::{
    Host,
    client::{ConnectError, reach},
};

/// Why there is no answer.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ControlError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("talk to VM {id}")]
    Talk {
        id: SandboxId,
        #[source]
        source: io::Error,
    },
    #[error("VM {id} did not answer within {seconds} seconds")]
    Silent { id: SandboxId, seconds: u64 },
    #[error("{0}")]
    Refused(String),
}

/// Have the supervisor of `sandbox` do something.
///
/// # Errors
/// [`ControlError`], which includes that it cannot be done.
pub async fn ask(host: &Host, sandbox: &Sandbox, request: &Request) -> Result<Answer, ControlError> {
    let id = || sandbox.id.clone();
    let mut stream = reach(sandbox, host.state.vm(&sandbox.id).control_socket())?;
    let conversation = async {
        line::send(&mut stream, request).await?;
        line::receive(&mut stream).await
    };
    match timeout(ANSWER_DEADLINE, conversation).await {
        Err(_) => Err(ControlError::Silent { id: id(), seconds: ANSWER_DEADLINE.as_secs() }),
        Ok(Err(source)) => Err(ControlError::Talk { id: id(), source }),
        Ok(Ok(Answer::Failed(why))) => Err(ControlError::Refused(why)),
        Ok(Ok(answer)) => Ok(answer),
    }
}
