//! The end of a sandbox that `run` supervises: what brings it about before its command does, and what is still waited for.

use std::time::Duration;

use matchlock_model::ExitStatus;
use matchlock_sandbox::CloseError;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{error::CliError, signals::Signals};

/// How long the last of what a command said may take to be passed on when its machine is gone.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// What came of a sandbox's end in order; what failed of it has an exit status.
pub(crate) type OrderlyEnd = Result<(), (ExitStatus, CloseError)>;

/// What ends a sandbox before its command does.
pub(crate) struct EarlyEnd {
    signals: Signals,
    deadline: Option<Instant>,
}

impl EarlyEnd {
    /// From now on: any signal, and the end of `timeout` seconds, 0 for never.
    pub(crate) fn new(timeout: u64) -> Result<Self, CliError> {
        let signals = Signals::take().map_err(CliError::io("take signals"))?;
        // One that no clock reaches is none.
        let deadline = Instant::now().checked_add(Duration::from_secs(timeout)).filter(|_| timeout != 0);
        Ok(Self { signals, deadline })
    }

    pub(crate) async fn next(&mut self) -> ExitStatus {
        let signal = self.signals.next();
        match self.deadline {
            Some(deadline) => timeout_at(deadline, signal).await.map_or(ExitStatus::TimedOut, ExitStatus::Interrupted),
            None => ExitStatus::Interrupted(signal.await),
        }
    }

    /// Wait for `ending`, a sandbox's end in order, for as long as the user does.
    pub(crate) async fn unless_impatient(
        &mut self,
        ending: impl Future<Output = Result<(), CloseError>>,
    ) -> OrderlyEnd {
        tracing::info!("ending the sandbox in order");
        tokio::select! {
            ended = ending => ended.map_err(|error| (ExitStatus::Failure, error)),
            signal = self.signals.impatience() => {
                let unclean = CloseError::Unclean("it was interrupted".to_owned());
                Err((ExitStatus::Interrupted(signal), unclean))
            }
        }
    }
}

/// Wait for `ending` while `service` goes on, and then for the rest of it, unless the user waits for nothing any more.
pub(crate) async fn while_serving(
    ending: impl Future<Output = OrderlyEnd>,
    service: impl Future<Output = ()>,
) -> OrderlyEnd {
    tokio::pin!(ending, service);
    tokio::select! {
        ended = &mut ending => {
            if !matches!(ended, Err((ExitStatus::Interrupted(_), _))) {
                last_output(service).await;
            }
            ended
        }
        () = &mut service => ending.await,
    }
}

/// Wait for the rest of `service`, whose machine is gone, unless whoever takes it is too slow.
pub(crate) async fn last_output(service: impl Future<Output = ()>) {
    let _ = timeout(LAST_OUTPUT, service).await;
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, ready},
    };

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_the_end_is_passed_on_after_it() {
        let shown = Cell::new(false);
        let slow = async {
            tokio::task::yield_now().await;
            shown.set(true);
        };
        while_serving(ready(Ok(())), slow).await.unwrap();
        assert!(shown.get());
    }

    #[tokio::test]
    async fn the_end_waits_for_no_reader_for_ever_and_for_an_impatient_user_not_at_all() {
        let began = Instant::now();
        while_serving(ready(Ok(())), pending()).await.unwrap();
        assert!(began.elapsed() >= LAST_OUTPUT);
        let began = Instant::now();
        let interrupted = (ExitStatus::Interrupted(2), CloseError::Unclean("it was interrupted".to_owned()));
        while_serving(ready(Err(interrupted)), pending()).await.unwrap_err();
        assert!(began.elapsed() < LAST_OUTPUT);
    }
}
