//! Bodies on their way: passed on as they come, counted, and changed where secrets are to be put in or taken out.
//!
//! What waits is one piece. A piece in which something was replaced is a copy, which is not zeroed when it has been sent:
//! hyper's buffers, and the kernel's, are not ours.

use std::{
    future::{Pending, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use matchlock_model::one_line;
use tokio::{
    sync::oneshot,
    time::{Timeout, timeout},
};

use super::{account::Account, headers, limits, page::Refusal, server::Lease};
use crate::{
    gateway::End,
    rules::{BodyRewriter, TooLarge},
    secret::{Exchange, Misdirected, Replacer},
};

/// A body of a request or of a response. In a box wherever it goes: hyper makes room for 32 requests as soon as there is a connection.
pub(super) struct Relayed {
    source: Source,
    account: Option<Arc<Account>>,
    way: Way,
    /// Bytes that may still come, if a rule says how many.
    left: Option<u64>,
    /// Texts that rules replace.
    edits: Option<BodyRewriter>,
    /// Looked through, with the trailers, if there are secrets.
    rewrite: Option<Replacer>,
    /// Until it keeps nothing back any longer, if nothing follows.
    pause: Option<Pin<Box<Timeout<Pending<()>>>>>,
    exchange: Option<Arc<Exchange>>,
    /// Those that come after what is left of the rewritten body.
    trailers: Option<HeaderMap>,
    /// Not to be begun before this.
    held: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Resolved when the response is over.
    unwanted: Option<oneshot::Receiver<()>>,
    over: Over,
}

/// What the end of a response means to others.
struct Over {
    /// The connection that it comes over is free again.
    lease: Option<Lease>,
    /// Its request's body is of no use any longer.
    _wants: Option<oneshot::Sender<()>>,
}

enum Source {
    Nothing,
    Whole(Bytes),
    Stream(Incoming),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToGuest,
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("a body that breaks off")]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Misdirected(#[from] Misdirected),
    #[error(transparent)]
    Grown(#[from] TooLarge),
    #[error("a body has more bytes than a rule lets through")]
    Limit,
    #[error("the response is over before its request")]
    Unwanted,
}

impl Relayed {
    /// A page of our own.
    pub(super) fn page(text: Bytes) -> Box<Self> {
        Self::new(Source::Whole(text), None, Way::ToGuest)
    }

    /// A request's.
    pub(super) fn to_server(body: Incoming, account: &Arc<Account>) -> Box<Self> {
        let body = Self::new(Source::stream(body), Some(Arc::clone(account)), Way::ToServer);
        body.tell_if_sent();
        body
    }

    /// A request's that has been read and counted already.
    pub(super) fn whole(body: Bytes) -> Box<Self> {
        Self::new(Source::Whole(body), None, Way::ToServer)
    }

    /// A response's. When it has been read, the connection it came over is free, and what `wants` it says so.
    pub(super) fn to_guest(
        body: Incoming,
        account: &Arc<Account>,
        lease: Option<Lease>,
        wants: Option<oneshot::Sender<()>>,
    ) -> Box<Self> {
        let mut body = Self::new(Source::stream(body), Some(Arc::clone(account)), Way::ToGuest);
        body.over = Over { lease, _wants: wants };
        body
    }

    fn new(source: Source, account: Option<Arc<Account>>, way: Way) -> Box<Self> {
        Box::new(Self {
            source,
            account,
            way,
            left: None,
            edits: None,
            rewrite: None,
            pause: None,
            exchange: None,
            trailers: None,
            held: None,
            unwanted: None,
            over: Over { lease: None, _wants: None },
        })
    }

    /// Let no more through than this, and have rules make their changes.
    pub(super) fn go_by_rules(&mut self, limit: Option<u64>, edits: Option<BodyRewriter>) {
        self.left = limit;
        self.edits = edits;
    }

    /// Look through it for secrets, and through its trailers.
    pub(super) fn look_through(&mut self, rewrite: Option<Replacer>, exchange: &Arc<Exchange>) {
        self.rewrite = rewrite;
        self.exchange = Some(Arc::clone(exchange));
    }

    /// Not to be gone on with when the response has ended: it would hold the connection, and the guest's.
    pub(super) fn until_answered(&mut self) -> oneshot::Sender<()> {
        let (wants, unwanted) = oneshot::channel();
        self.unwanted = Some(unwanted);
        wants
    }

    /// Have it wait until the server wants it. It does not come at all if the server answers without wanting it.
    pub(super) fn hold(&mut self, wanted: oneshot::Receiver<()>) {
        self.held = Some(Box::pin(async move {
            if matches!(timeout(limits::CONTINUE_DEADLINE, wanted).await, Ok(Err(_))) {
                pending::<()>().await;
            }
        }));
    }

    /// Have it wait no longer.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Whether there is none.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.source, Source::Nothing)
    }

    fn is_over(&self) -> bool {
        let over = match &self.source {
            Source::Nothing => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Stream(body) => !self.is_changed() && body.is_end_stream(),
        };
        over && self.trailers.is_none()
    }

    fn is_changed(&self) -> bool {
        self.rewrite.is_some() || self.edits.is_some()
    }

    /// What is passed on of this piece.
    fn data(&mut self, mut piece: Bytes) -> Result<Bytes, BodyError> {
        if self.way == Way::ToServer {
            self.count(piece.len());
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(piece.len() as u64).ok_or(BodyError::Limit)?;
        }
        if let Some(edits) = &mut self.edits {
            piece = edits.feed(&piece)?.into();
        }
        if let Some(rewrite) = &mut self.rewrite {
            piece = Bytes::copy_from_slice(&rewrite.feed(&piece)?);
        }
        if self.way == Way::ToGuest {
            self.count(piece.len());
        }
        Ok(piece)
    }

    fn count(&self, length: usize) {
        match (&self.account, self.way) {
            (Some(account), Way::ToServer) => account.moved_from_guest(length as u64),
            (Some(account), Way::ToGuest) => account.moved_to_guest(length as u64),
            (None, _) => {}
        }
    }

    /// What was kept back, after a pause in which nothing has followed.
    fn let_go(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        let Some(rewrite) = self.rewrite.as_mut().filter(|rewrite| rewrite.keeps_blindly()) else {
            return Poll::Pending;
        };
        let pause = self.pause.get_or_insert_with(|| Box::pin(timeout(limits::PAUSE_DEADLINE, pending())));
        let _elapsed = ready!(pause.as_mut().poll(cx));
        self.pause = None;
        let data = Bytes::copy_from_slice(&rewrite.finish()?);
        self.count(data.len());
        Poll::Ready(Ok(data))
    }

    /// The rest of a rewritten body, which has ended.
    fn rest(&mut self) -> Result<Bytes, BodyError> {
        self.source = Source::Nothing;
        let mut rest = match self.edits.take() {
            None => Bytes::new(),
            Some(edits) => edits.finish()?.into(),
        };
        if let Some(mut rewrite) = self.rewrite.take() {
            let last = rewrite.feed(&rest)?;
            rest = [&**last, &**rewrite.finish()?].concat().into();
        }
        if self.way == Way::ToGuest {
            self.count(rest.len());
        }
        Ok(rest)
    }

    /// A connection whose request has not been sent as a whole is not free after the response.
    fn tell_if_sent(&self) {
        if let (Way::ToServer, Some(account)) = (self.way, &self.account)
            && self.is_over()
        {
            account.request_is_sent();
        }
    }

    fn look_through_trailers(&self, trailers: &mut HeaderMap) -> Result<(), BodyError> {
        let Some(exchange) = &self.exchange else { return Ok(()) };
        match self.way {
            Way::ToServer => headers::put_into(trailers, exchange)?,
            Way::ToGuest => headers::take_out_of(trailers, exchange),
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(unwanted) = &mut self.unwanted
            && Pin::new(unwanted).poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        if let Some(held) = &mut self.held {
            ready!(held.as_mut().poll(cx));
            self.held = None;
        }
        loop {
            let frame = match &mut self.source {
                Source::Nothing => {
                    return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Source::Whole(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.source = Source::Nothing;
                    if bytes.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Source::Stream(body) => match Pin::new(body).poll_frame(cx) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => return self.let_go(cx).map(|data| Some(data.map(Frame::data))),
                },
            };
            self.pause = None;
            let data = match frame.transpose()?.map(Frame::into_data) {
                None => self.rest()?,
                Some(Ok(piece)) => self.data(piece)?,
                Some(Err(frame)) => {
                    let Ok(mut trailers) = frame.into_trailers() else { continue };
                    self.look_through_trailers(&mut trailers)?;
                    self.trailers = Some(trailers);
                    self.rest()?
                }
            };
            // What a replacer keeps back comes with a later piece.
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }
}

impl Source {
    fn stream(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Nothing } else { Self::Stream(body) }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(self.poll(cx));
        if let (Some(Err(e)), Some(account)) = (&polled, &self.account) {
            match e {
                BodyError::Misdirected(misdirected) => {
                    account.stop(Refusal::forbidden(End::Blocked(misdirected.to_string())));
                }
                BodyError::Limit if self.way == Way::ToServer => account.stop(Refusal::too_large(e.to_string())),
                BodyError::Limit | BodyError::Grown(_) => account.ended(End::Blocked(e.to_string())),
                BodyError::Http(e) if self.way == Way::ToGuest => {
                    account.ended(End::Failed(format!("its response breaks off: {}", one_line(e))));
                }
                BodyError::Http(e) => account.stop(Refusal::malformed(format!("its body breaks off: {}", one_line(e)))),
                BodyError::Unwanted => {}
            }
        }
        self.tell_if_sent();
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stream(body) if !self.is_changed() => body.size_hint(),
            Source::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let sent = self.account.as_ref().is_none_or(|account| account.is_request_sent());
        if self.is_over()
            && sent
            && let Some(lease) = self.over.lease.take()
        {
            lease.give_back();
        }
    }
}
