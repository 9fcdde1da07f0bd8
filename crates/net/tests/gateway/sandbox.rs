//! A sandbox's network as its supervisor has it, with a guest on it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use matchlock_net::{
    gateway::{Decide, Event, Forwarder, Gateway, Grant, Inspector, OrigDst, Resolver, Servers, Settings},
    namespace::{self, Addressing, Doors, Error, Furnished, Holder, HolderCommand, Plan, Unfurnished},
    policy::{AddressClass, Allowed, Denied, Rule},
};
use tokio::sync::oneshot;

use crate::{
    guest::Guest,
    world::{self, DEADLINE, DNS, Host, at},
};

type Events = dyn Fn(Event) + Send + Sync;

pub(crate) struct Sandbox {
    pub(crate) guest: Guest,
    events: Mutex<mpsc::Receiver<Event>>,
    stop: Option<oneshot::Sender<()>>,
    supervisor: Option<JoinHandle<()>>,
}

/// How the id of the first sandbox of a story ends, where it has one.
pub(crate) const FIRST_ID: u32 = 0x0123_abcd;

pub(crate) fn plan() -> Plan {
    Plan { addressing: Addressing::default(), ipv6: true, udp: true }
}

pub(crate) fn holder() -> HolderCommand {
    let verb = match world::host() {
        Host::Usual => "hold",
        Host::Forbidding => "hold-with-rights",
    };
    HolderCommand { program: "/proc/self/exe".into(), arguments: vec![verb.into()] }
}

/// Wherever it is, as a sandbox with a name of its own.
pub(crate) async fn furnish(unfurnished: Unfurnished, plan: Plan) -> Result<(Doors, Holder), Error> {
    static ID: AtomicU32 = AtomicU32::new(FIRST_ID);
    match (unfurnished.furnish(plan).await?, world::host()) {
        (Furnished::Private(doors, holder), Host::Usual) => Ok((doors, holder)),
        (Furnished::OnHost(place), Host::Forbidding) => place.furnish(ID.fetch_add(1, Ordering::Relaxed)).await,
        (furnished, host) => panic!("{furnished:?} on {host:?}"),
    }
}

/// With everything allowed, and the world's DNS server.
pub(crate) fn open() -> Sandbox {
    start(plan(), everything(), servers(&[DNS]))
}

/// With one address denied.
pub(crate) fn without(denied: &'static str) -> Sandbox {
    let decide = move |_, to: OrigDst| {
        let address = to.get().ip();
        let denial = Denied::Address { name: None, address, class: AddressClass::Multicast };
        if address.to_string() == denied { Err(denial) } else { Ok(granted()) }
    };
    start(plan(), Arc::new(decide), servers(&[DNS]))
}

/// What allows everything.
pub(crate) fn everything() -> Arc<Decide> {
    Arc::new(|_, _| Ok(granted()))
}

fn granted() -> Grant {
    Grant::raw(Allowed { rule: Rule::Open, name: None, opened: None })
}

pub(crate) fn servers(addresses: &[&str]) -> Arc<dyn Resolver> {
    Arc::new(Forwarder { servers: Servers::These(addresses.iter().map(|address| at(address, 53)).collect()) })
}

pub(crate) fn start(plan: Plan, decide: Arc<Decide>, resolver: Arc<dyn Resolver>) -> Sandbox {
    launch(plan, decide, resolver, |_| None)
}

/// One with an inspector, which tells events, too.
pub(crate) fn inspected(
    decide: Arc<Decide>,
    resolver: Arc<dyn Resolver>,
    inspector: impl FnOnce(Arc<Events>) -> Arc<dyn Inspector> + Send + 'static,
) -> Sandbox {
    launch(plan(), decide, resolver, |events| Some(inspector(events)))
}

fn launch(
    plan: Plan,
    decide: Arc<Decide>,
    resolver: Arc<dyn Resolver>,
    inspector: impl FnOnce(Arc<Events>) -> Option<Arc<dyn Inspector>> + Send + 'static,
) -> Sandbox {
    let (event, events) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let (tap, has_tap) = mpsc::channel();
    let supervisor = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (made, unfurnished) = namespace::create(holder()).await.unwrap();
            let (doors, holder) = furnish(unfurnished, plan).await.unwrap();
            tap.send(made).unwrap();
            let over = Arc::new(AtomicBool::new(false));
            let is_over = Arc::clone(&over);
            let events: Arc<Events> = Arc::new(move |e| {
                assert!(!is_over.load(Ordering::Relaxed), "told when all has been told: {e:?}");
                // The story may have ended without hearing of everything.
                let _ = event.send(e);
            });
            let inspector = inspector(Arc::clone(&events));
            let settings = Settings { decide, inspector, resolver, events, addressing: plan.addressing };
            let gateway = Gateway::start(doors, holder, settings).unwrap();
            let _ = stopped.await;
            gateway.end().await;
            over.store(true, Ordering::Relaxed);
        });
    });
    let guest = Guest::boot(has_tap.recv_timeout(DEADLINE).unwrap(), plan.addressing);
    Sandbox { guest, events: Mutex::new(events), stop: Some(stop), supervisor: Some(supervisor) }
}

impl Sandbox {
    /// The next event.
    pub(crate) fn next(&self) -> Event {
        self.within(DEADLINE).unwrap()
    }

    /// The next event, if there is one by then.
    pub(crate) fn within(&self, deadline: Duration) -> Result<Event, mpsc::RecvTimeoutError> {
        self.events.lock().unwrap().recv_timeout(deadline)
    }

    /// The next event, as a line without its times.
    pub(crate) fn event(&self) -> String {
        let Event { destination, what, end, .. } = self.next();
        format!("{what:?} {destination} {end}")
    }

    /// End the gateway, and leave the guest where it is.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.join().unwrap();
        }
    }
}
