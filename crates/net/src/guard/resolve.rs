//! The guest's resolver.

use std::{io, time::Instant};

use super::{Guard, lock};
use crate::{
    dns::{Pending, Reply, Transport, Upstream, Verdict, judge},
    gateway::{Answer, End, Heard, Query, Question, Resolve, Resolver},
    policy::Decision,
};

impl Resolver for Guard {
    fn resolve<'a>(&'a self, query: &'a Query) -> Resolve<'a> {
        Box::pin(self.answer(query))
    }
}

impl Guard {
    async fn answer(&self, query: &Query) -> io::Result<Option<Answer>> {
        let [high, low, ..] = getrandom::u32()?.to_ne_bytes();
        let pending = match judge(&self.policy(), &query.message, query.transport, u16::from_be_bytes([high, low])) {
            Verdict::Silence => return Ok(None),
            Verdict::Answer(reply) => return Ok(Some(self.hand_out(reply, None))),
            Verdict::Ask(pending) => pending,
        };
        let asked = self.ask(&pending).await;
        Ok(Some(match asked {
            Ok(reply) => self.hand_out(reply, None),
            Err(e) => self.hand_out(pending.failure(), Some(e)),
        }))
    }

    /// Put a question to the host's resolvers.
    pub(super) async fn ask(&self, pending: &Pending) -> io::Result<Reply> {
        // Whose answer it is shows in it; by which policy it is judged, when it is there.
        let hear = |message: &[u8]| match pending.answer(&self.policy(), message) {
            Upstream::Unrelated => Heard::Nothing,
            Upstream::Truncated => Heard::Truncated,
            Upstream::Failed(code) => Heard::Failed(format!("answers {code}")),
            Upstream::Done(reply) => Heard::Answer(reply),
        };
        // How the guest asked says how much it takes, not how much there is.
        self.0.upstream.ask(&pending.query(), Transport::Udp, hear).await
    }

    /// Remember what the guest is going to be told, and then tell it.
    fn hand_out(&self, reply: Reply, failed: Option<io::Error>) -> Answer {
        let question = Question::of(&reply);
        let allowed = question.as_ref().and_then(|question| match self.policy().name(&question.name) {
            Decision::Allowed(allowed) => Some(allowed),
            Decision::Denied(_) => None,
        });
        if let Some(question) = &question {
            lock(&self.0.pins).pin(&question.name, &reply.addresses, reply.ttl, Instant::now());
        }
        let end = match (failed, reply.refused.first()) {
            (Some(e), _) => End::Failed(e.to_string()),
            (None, Some(denied)) if reply.addresses.is_empty() => End::Denied(denied.clone()),
            (None, _) => End::Done,
        };
        Answer { message: reply.message, question, allowed, end }
    }
}
