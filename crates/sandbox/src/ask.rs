//! Requests that the guest answers in one word. Used to make a booted guest a sandbox, and to end it.

use matchlock_wire::{Event, Milestone, Note, Request};
use thiserror::Error;

use crate::{
    exec::printable,
    link::{Link, LinkError},
};

/// Why the guest did not do what it was asked.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AskError {
    #[error("guest: {0}")]
    Refused(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Ask the guest for something that it answers with `Done`; returns what it was asked to say of the way there.
pub(crate) async fn ask(link: &Link, request: Request) -> Result<Vec<Milestone>, AskError> {
    let mut session = link.open(request).await?;
    let (mut answer, mut times) = (None, Vec::new());
    loop {
        match session.next().await {
            Some(Event::Note(_, Note::Times(told))) => times = told,
            Some(Event::Note(_, Note::Done)) => answer = Some(Ok(())),
            Some(Event::Note(_, Note::Failed(failure))) => {
                answer = Some(Err(AskError::Refused(printable(&failure.message))));
            }
            // To the session's very end, so that nothing of it is under way any more.
            Some(Event::Ended(_)) | None => {
                return answer.unwrap_or_else(|| Err(session.fate().into())).map(|()| times);
            }
            Some(_) => {}
        }
    }
}
