//! What becomes of TLS and HTTP: the interceptor in its place, between a guest and servers of an internet with a root of its own.
//!
//! Both ends of most stories are written out in bytes, so that what stands there is what was sent.

mod hostile;
mod http1;
mod http2;
mod names;
mod passthrough;
mod rules;
mod secrets;
mod talk;
mod websocket;

use std::sync::Arc;

use matchlock_net::{
    gateway::{End, Event, Forwarder, Moved, Request, Servers, What},
    guard::Guard,
    intercept::{Authority, Interceptor, Settings},
    policy::{Mode, Policy},
    rules::PolicyFile,
    secret::{Current, Secret, Secrets},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    Story,
    sandbox::{self, Sandbox},
    world::{DNS, SERVER4, SERVER6, at},
};

pub(crate) fn stories() -> Vec<Story> {
    [
        http1::STORIES,
        http2::STORIES,
        websocket::STORIES,
        names::STORIES,
        passthrough::STORIES,
        rules::STORIES,
        secrets::STORIES,
        hostile::STORIES,
    ]
    .concat()
}

/// A sandbox whose connections are looked into.
struct Intercepted {
    sandbox: Sandbox,
    guard: Guard,
    secrets: Current,
    /// Whom the guest trusts.
    authority: Arc<Authority>,
    /// Whom the host trusts, and who signs for its servers.
    internet: Arc<Authority>,
}

/// What a story wants of it.
#[derive(Default)]
struct Wanted<'a> {
    /// Allowed. `api.x.com` and `web.x.com` are at one address, `far.x.com` is elsewhere.
    hosts: &'a str,
    secrets: Vec<Secret>,
    /// As in a policy file.
    rules: &'a str,
    passthrough: &'a [&'a str],
}

fn allowing(hosts: &str) -> Intercepted {
    intercepted(Wanted { hosts, ..Wanted::default() })
}

fn intercepted(wanted: Wanted<'_>) -> Intercepted {
    let known = [("api.x.com", SERVER4), ("web.x.com", SERVER4), ("far.x.com", SERVER6)];
    let policy = Policy {
        mode: Mode::Intercept,
        allowed: wanted.hosts.split_whitespace().map(|host| host.parse().unwrap()).collect(),
        added: known.map(|(name, address)| (name.parse().unwrap(), at(address, 0).ip())).to_vec(),
        passthrough: wanted.passthrough.iter().map(|host| host.parse().unwrap()).collect(),
        ..Policy::default()
    };
    let rules = PolicyFile::parse("policy.toml", wanted.rules).unwrap().rules;
    let secrets = wanted.secrets;
    let guard = Guard::new(policy, rules, Forwarder { servers: Servers::These(vec![at(DNS, 53)]) });
    let secrets = Current::new(Secrets::new(secrets).ok().unwrap());
    let [authority, internet] = ["a sandbox", "an internet"].map(|called| Arc::new(Authority::new(called).unwrap()));
    let decide = guard.clone();
    let (asked, put_in, signs) = (guard.clone(), secrets.clone(), Arc::clone(&authority));
    let roots = Arc::new(trusting(&internet));
    let sandbox = sandbox::inspected(
        Arc::new(move |protocol, destination| decide.decide(protocol, destination)),
        Arc::new(guard.clone()),
        move |events| {
            let settings = Settings { guard: asked, secrets: put_in, authority: signs, roots, events };
            Arc::new(Interceptor::new(settings).unwrap())
        },
    );
    Intercepted { sandbox, guard, secrets, authority, internet }
}

fn trusting(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    roots
}

impl Intercepted {
    /// The next request that is told of.
    fn request(&self) -> String {
        loop {
            let event = self.sandbox.next();
            if let What::Request(request) = &event.what {
                return told(request, &event);
            }
        }
    }

    /// How the next connection that is told of ended.
    fn connection(&self) -> End {
        loop {
            let event = self.sandbox.next();
            if let What::Connection(_) = event.what {
                return event.end;
            }
        }
    }
}

fn told(request: &Request, event: &Event) -> String {
    let Request { method, tls, host, port, path, status, moved, secrets, rules } = request;
    let Moved { from_guest, to_guest } = moved;
    let scheme = if *tls { "https" } else { "http" };
    let host = host.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let named = [secrets.as_slice(), rules].concat().join(" ");
    let rule = event.allowed.as_ref().map_or_else(String::new, |allowed| format!(" by {allowed}"));
    format!("{method} {scheme}://{host}:{port}{path} {status} {from_guest}>{to_guest} [{named}]{rule} {}", event.end)
}
