//! What is told of a request when it is over: when the last that has to do with it is gone, its bodies included.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use http::StatusCode;
use matchlock_model::printable;

use super::{Connection, limits, page::Refusal};
use crate::{
    MAX_TOLD,
    gateway::{End, Event, Moved, Request, What},
    percent,
    policy::{Allowed, Host},
    secret::Exchange,
};

/// Kept by everybody who has to do with a request; dropped by the last, it tells the event.
pub(super) struct Account {
    connection: Arc<Connection>,
    began: Instant,
    from_guest: AtomicU64,
    to_guest: AtomicU64,
    request_is_sent: AtomicBool,
    told: Mutex<Told>,
}

struct Told {
    request: Request,
    allowed: Option<Allowed>,
    exchange: Option<Arc<Exchange>>,
    /// What is to be answered to a request that was stopped on its way.
    stopped: Option<Refusal>,
    end: End,
}

impl Account {
    pub(super) fn open(connection: Arc<Connection>, request: &http::request::Parts) -> Arc<Self> {
        let request = Request {
            method: printable(request.method.as_str(), MAX_TOLD),
            tls: connection.is_tls(),
            host: None,
            port: connection.destination.get().port(),
            path: percent::told(request.uri.path(), limits::MAX_TOLD_PATH),
            status: None,
            moved: Moved::default(),
            secrets: Vec::new(),
            rules: Vec::new(),
        };
        Arc::new(Self {
            connection,
            began: Instant::now(),
            from_guest: AtomicU64::new(0),
            to_guest: AtomicU64::new(0),
            request_is_sent: AtomicBool::new(false),
            told: Mutex::new(Told { request, allowed: None, exchange: None, stopped: None, end: End::Done }),
        })
    }

    /// For whom it is.
    pub(super) fn is_for(&self, host: &Host) {
        self.change(|told| told.request.host = Some(host.clone()));
    }

    /// What allows it.
    pub(super) fn is_allowed(&self, allowed: Allowed) {
        self.change(|told| told.allowed = Some(allowed));
    }

    /// Rules that have a say in it.
    pub(super) fn matches<'a>(&self, rules: impl Iterator<Item = &'a str>) {
        self.change(|told| told.request.rules = rules.map(str::to_owned).collect());
    }

    /// Where it will stand which secrets were used.
    pub(super) fn has(&self, exchange: &Arc<Exchange>) {
        self.change(|told| told.exchange = Some(Arc::clone(exchange)));
    }

    /// It was answered so.
    pub(super) fn answered(&self, status: StatusCode) {
        self.change(|told| told.request.status = Some(status.as_u16()));
    }

    /// It ended otherwise than its ends wanted it. The first reason counts.
    pub(super) fn ended(&self, end: End) {
        self.change(|told| {
            if told.end == End::Done {
                told.end = end.bounded();
            }
        });
    }

    pub(super) fn moved_from_guest(&self, count: u64) {
        self.from_guest.fetch_add(count, Relaxed);
    }

    pub(super) fn moved_to_guest(&self, count: u64) {
        self.to_guest.fetch_add(count, Relaxed);
    }

    /// All of its body has been taken by the connection to the server.
    pub(super) fn request_is_sent(&self) {
        self.request_is_sent.store(true, Relaxed);
    }

    pub(super) fn is_request_sent(&self) -> bool {
        self.request_is_sent.load(Relaxed)
    }

    /// It cannot go on, and is to be answered so, if it is not answered yet.
    pub(super) fn stop(&self, refusal: Refusal) {
        self.ended(refusal.end.clone());
        self.change(|told| told.stopped = Some(refusal));
    }

    pub(super) fn stopped(&self) -> Option<Refusal> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).stopped.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Told { request, allowed, exchange, stopped: _, end } =
            self.told.get_mut().unwrap_or_else(PoisonError::into_inner);
        request.moved = Moved { from_guest: *self.from_guest.get_mut(), to_guest: *self.to_guest.get_mut() };
        request.secrets = exchange.as_ref().map(|exchange| exchange.used()).unwrap_or_default();
        if request.status.is_none() && *end == End::Done {
            *end = End::Failed("the guest did not wait for a response".to_owned());
        }
        (self.connection.shared.events)(Event {
            client: self.connection.client,
            destination: self.connection.destination,
            what: What::Request(Box::new(request.clone())),
            allowed: allowed.take(),
            end: end.clone(),
            took: self.began.elapsed(),
        });
    }
}
