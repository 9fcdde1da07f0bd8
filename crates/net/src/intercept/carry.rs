//! One request: judged, changed, carried to the server, and its response back.
//!
//! ```text
//! guest ─ whose is it? ─ policy ─ rules ─ secrets in ─ Server::send ─────────── server
//!       └ 400, 403                           └ 502
//! guest ─ secrets out ─ rules ─ what is for one hop only goes no further ────── server
//! ```

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_EXTENSIONS, UPGRADE},
    request, response,
    uri::{Authority, PathAndQuery},
};
use hyper::{body::Incoming, ext::ReasonPhrase, upgrade::OnUpgrade};
use matchlock_model::one_line;
use tokio::sync::oneshot;

use super::{
    Connection,
    account::Account,
    body::Relayed,
    head, headers, limits,
    page::Refusal,
    server::Lease,
    websocket,
    whole::{Place, Unwhole},
};
use crate::{
    gateway::End,
    policy::{Denied, Host},
    readable,
    rules::Matched,
    secret::{Exchange, Misdirected},
};

/// Carry it, or answer with a page that says why not.
pub(super) async fn carry(connection: Arc<Connection>, mut request: Request<Incoming>) -> Response<Box<Relayed>> {
    let guest = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let account = Account::open(Arc::clone(&connection), &parts);
    let http1 = parts.version <= Version::HTTP_11;
    let outcome = Carried { connection: &connection, account: &account }.carry(parts, body, guest).await;
    let response = outcome.unwrap_or_else(|refusal| {
        let mut page = refusal.page();
        // What follows a request that is not understood is not either.
        if http1 && refusal.status == StatusCode::BAD_REQUEST {
            page.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        account.ended(refusal.end);
        page
    });
    account.answered(response.status());
    response
}

struct Carried<'a> {
    connection: &'a Arc<Connection>,
    account: &'a Arc<Account>,
}

impl Carried<'_> {
    async fn carry(
        &self,
        mut parts: request::Parts,
        body: Incoming,
        guest: OnUpgrade,
    ) -> Result<Response<Box<Relayed>>, Refusal> {
        let (host, authority) = self.judge(&parts)?;
        let websocket = parts.version == Version::HTTP_11 && head::is_websocket(&parts.headers);
        head::strip(&mut parts.headers);
        let matched = self.go_by_rules(&host, &mut parts, websocket)?;
        if websocket {
            upgrade(&mut parts.headers);
        }

        let exchange = Arc::new(self.connection.shared.secrets.get().towards(&host, self.connection.is_tls()));
        self.account.has(&exchange);
        put_in(&mut parts, &exchange)?;
        let (request, wants) = self.request(parts, body, &matched, &exchange).await?;

        let sent = self.connection.server.send(request, &authority).await;
        let (response, lease) =
            sent.map_err(|why| self.account.stopped().unwrap_or_else(|| Refusal::unreachable(why)))?;
        if websocket && response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.switch(guest, response, lease, &matched, &exchange)
        } else {
            self.respond(response, (lease, wants), &matched, &exchange)
        }
    }

    /// For whom it is, and whether that is allowed now.
    fn judge(&self, parts: &request::Parts) -> Result<(Host, Authority), Refusal> {
        let Connection { shared, destination, names, front, .. } = &**self.connection;
        let (host, authority) = head::host(parts, destination.get().port())?;
        self.account.is_for(&host);
        if let Some(front) = front
            && host != Host::Name(front.clone())
        {
            let denied = Denied::Fronted { host, front: front.clone() };
            return Err(Refusal::forbidden(End::Denied(denied)));
        }
        let allowed = shared.guard.decide_host(&host, *destination, names);
        self.account.is_allowed(allowed.map_err(|denied| Refusal::forbidden(End::Denied(denied)))?);
        if !head::is_framed_plainly(&parts.headers) {
            return Err(Refusal::malformed("its body is coded for transfer in another way than in chunks"));
        }
        Ok((host, authority))
    }

    /// What rules say to it, and what they change.
    fn go_by_rules(&self, host: &Host, parts: &mut request::Parts, websocket: bool) -> Result<Matched, Refusal> {
        let blocked = |why: String| Refusal::forbidden(End::Blocked(why));
        let Connection { shared, destination, .. } = &**self.connection;
        let matched = shared.rules.request(host, destination.get().port(), parts).map_err(|e| {
            self.account.matches(e.rule.as_deref().into_iter());
            blocked(e.to_string())
        })?;
        self.account.matches(matched.names());
        if websocket && matched.max_request_bytes.or(matched.max_response_bytes).is_some() {
            return Err(blocked("a rule limits its bytes, and those of a WebSocket are not counted".to_owned()));
        }
        Ok(matched)
    }

    /// The request for the server, and what the response is to hold as long as the request's body is of use. A body in which something
    /// may be replaced has another length afterwards.
    async fn request(
        &self,
        mut parts: request::Parts,
        body: Incoming,
        matched: &Matched,
        exchange: &Arc<Exchange>,
    ) -> Result<(Request<Box<Relayed>>, Option<oneshot::Sender<()>>), Refusal> {
        let mut body = Relayed::to_server(body, self.account);
        if body.is_nothing() {
            return Ok((Request::from_parts(parts, body), None));
        }
        let rewrite = exchange.body();
        let rewritten = rewrite.is_some();
        body.go_by_rules(matched.max_request_bytes, None);
        body.look_through(rewrite, exchange);
        if rewritten && let Some(length) = parts.headers.remove(CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            let length = length.filter(|length: &u64| *length <= limits::MAX_WHOLE_BODY);
            if let Some(place) = length.and_then(|length| self.connection.shared.room.take(length)) {
                let whole = self.whole(place, body).await?;
                parts.headers.remove(EXPECT);
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
                return Ok((Request::from_parts(parts, Relayed::whole(whole)), None));
            }
        }
        let expected =
            parts.headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let wants = Some(body.until_answered());
        if !expected {
            return Ok((Request::from_parts(parts, body), wants));
        }
        let (wanted, waiting) = oneshot::channel();
        body.hold(waiting);
        let mut request = Request::from_parts(parts, body);
        let wanted = Mutex::new(Some(wanted));
        hyper::ext::on_informational(&mut request, move |response| {
            let wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(wanted) = wanted.filter(|_| response.status() == StatusCode::CONTINUE) {
                // Not waited for any longer, it was sent already.
                let _ = wanted.send(());
            }
        });
        Ok((request, wants))
    }

    async fn whole(&self, place: Place, mut body: Box<Relayed>) -> Result<Bytes, Refusal> {
        let whole = place.fill(&self.connection.shared.room, Pin::new(&mut *body)).await;
        whole.map_err(|e| match e {
            Unwhole::Broken(e) => self.account.stopped().unwrap_or_else(|| Refusal::malformed(one_line(&e))),
            Unwhole::Silent => Refusal::malformed("its body does not come"),
            Unwhole::Grown => Refusal::too_large("there is no room for its body with the secrets in it"),
        })
    }

    /// The response for the guest.
    fn respond(
        &self,
        response: Response<Incoming>,
        (lease, wants): (Option<Lease>, Option<oneshot::Sender<()>>),
        matched: &Matched,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Box<Relayed>>, Refusal> {
        let (mut parts, body) = response.into_parts();
        if !head::is_framed_plainly(&parts.headers) {
            return Err(Refusal::unreachable("the response is coded for transfer in another way than in chunks"));
        }
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::unreachable("the server switches to another protocol without being asked to"));
        }
        parts.version = Version::default();
        head::strip(&mut parts.headers);
        let mut body = Relayed::to_guest(body, self.account, lease, wants);
        let scrubber = match body.is_nothing() {
            true => None,
            false if head::has_lengths(&parts.headers) => exchange.masker(),
            false => exchange.scrubber(),
        };
        if scrubber.is_some() {
            // Before rules change what headers say.
            can_be_looked_through(&parts)?;
        }
        let edits = matched.response(&mut parts).map_err(|e| Refusal::kept_back(e.to_string()))?;
        take_out(&mut parts, exchange);
        if scrubber.is_some() {
            parts.headers.remove(CONTENT_LENGTH);
        }
        body.go_by_rules(matched.max_response_bytes, edits);
        body.look_through(scrubber, exchange);
        Ok(Response::from_parts(parts, body))
    }

    /// The response to a request for a WebSocket, and what follows it when it has been sent.
    fn switch(
        &self,
        guest: OnUpgrade,
        mut response: Response<Incoming>,
        lease: Option<Lease>,
        matched: &Matched,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Box<Relayed>>, Refusal> {
        if !head::is_websocket(response.headers()) {
            return Err(Refusal::unreachable("the server switches to something else than a WebSocket"));
        }
        let server = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        head::strip(&mut parts.headers);
        matched.response(&mut parts).map_err(|e| Refusal::kept_back(e.to_string()))?;
        upgrade(&mut parts.headers);
        take_out(&mut parts, exchange);
        let account = Arc::clone(self.account);
        self.connection.goes_on_with(websocket::carry(guest, server, lease, exchange.masker(), account));
        Ok(Response::from_parts(parts, Relayed::page(Bytes::new())))
    }
}

fn upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Put in secrets, and have nothing come back in which they could not be found.
fn put_in(parts: &mut request::Parts, exchange: &Exchange) -> Result<(), Refusal> {
    if parts.method == Method::TRACE && exchange.is_bound() {
        return Err(Refusal::forbidden(End::Blocked(
            "TRACE would have the server send back what is secret".to_owned(),
        )));
    }
    let blocked = |misdirected: Misdirected| Refusal::forbidden(End::Blocked(misdirected.to_string()));
    exchange.unreplaced("a path", parts.uri.path().as_bytes()).map_err(blocked)?;
    exchange.unreplaced("a method", parts.method.as_str().as_bytes()).map_err(blocked)?;
    if let Some(query) = parts.uri.query()
        && let Some(changed) = exchange.query(query.as_bytes()).map_err(blocked)?
    {
        parts.uri = with_query(&parts.uri, &changed)?;
    }
    headers::put_into(&mut parts.headers, exchange).map_err(blocked)?;
    if exchange.is_scrubbed() {
        readable::ask_for(&mut parts.headers);
        parts.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    }
    Ok(())
}

fn with_query(uri: &Uri, query: &[u8]) -> Result<Uri, Refusal> {
    let both = [uri.path().as_bytes(), b"?", query].concat();
    let path = PathAndQuery::from_maybe_shared(both);
    path.map(Uri::from).map_err(|_| Refusal::malformed("its query cannot have the secret in it"))
}

/// Whether values of secrets would be found in its body.
fn can_be_looked_through(response: &response::Parts) -> Result<(), Refusal> {
    let why = match readable::codings(&response.headers) {
        Some(codings) => format!("the response is compressed ({codings}), so it"),
        None if response.status == StatusCode::PARTIAL_CONTENT => "the response is only a part, which".to_owned(),
        None => return Ok(()),
    };
    Err(Refusal::kept_back(format!("{why} cannot be looked through for secrets")))
}

/// Take out secrets that the server sends back. What it says beside the status has no meaning (RFC 9110, section 15), and goes.
fn take_out(response: &mut response::Parts, exchange: &Exchange) {
    if exchange.is_scrubbed() {
        response.extensions.remove::<ReasonPhrase>();
    }
    headers::take_out_of(&mut response.headers, exchange);
}
