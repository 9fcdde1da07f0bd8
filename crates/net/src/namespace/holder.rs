//! The holder: a small process of this program that enters the namespace, makes everything in it, and stays.
//!
//! It stays because a datagram's answer must come from the address that the guest wrote to, and a socket belongs to the
//! namespace of the process that made it. It ends when the last does that has the other end of its socket: whoever was passed
//! that is its owner, so a signal at the end of the process that started it would be one too many.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use matchlock_netlink::HostLink;
use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, getegid, geteuid, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};
use serde::Serialize;

use super::{
    Doors, Error, LINK, Plan, doors, host, link, message,
    message::{Furnishing, Replier, Request, Where},
    ruleset::{self, Ruleset},
    tap,
};

/// What this program does when it is asked, by its arguments, to be a holder: serve the socket that is its standard input.
///
/// To be called while the process has one thread, or an ordinary user's namespace cannot be entered.
///
/// # Errors
/// What its owner has been told, or that it cannot be told anything.
pub fn hold() -> io::Result<()> {
    serve(io::stdin().as_fd())
}

fn serve(owner: impl AsFd) -> io::Result<()> {
    set_no_new_privs(true)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let mut place = None;
    let served = serve_requests(&owner, &mut place);
    if let Some(Place::Host { link: Some(link), .. }) = place {
        // Whoever has written it down tries again.
        let _ = link.remove();
    }
    served
}

/// Where this holder has made something.
enum Place {
    /// In a network namespace; whether in a user namespace, too.
    Namespace { ours: bool },
    /// Among the host's links; as what, once it is a sandbox's.
    Host { called: String, link: Option<HostLink> },
}

fn serve_requests(owner: impl AsFd, place: &mut Option<Place>) -> io::Result<()> {
    while let Some((request, _)) = message::receive(&owner)? {
        match (request, &mut *place) {
            (Request::Create(Where::Namespace), None) => {
                let created = create().map(|(tap, ours)| {
                    *place = Some(Place::Namespace { ours });
                    ((), vec![tap])
                });
                answer(&owner, created)?;
            }
            (Request::Create(Where::Host), None) => {
                let created = host::create().map(|(tap, called)| {
                    *place = Some(Place::Host { called, link: None });
                    ((), vec![tap])
                });
                answer(&owner, created)?;
            }
            (Request::Furnish(plan), Some(Place::Namespace { ours })) => {
                answer(&owner, finish(&plan, *ours).map(|doors| (Furnishing::Done, doors.into_descriptors().into())))?;
            }
            (Request::Furnish(_), Some(Place::Host { .. })) => {
                answer(&owner, Ok((Furnishing::OnHost, Vec::new())))?;
            }
            (Request::FurnishOnHost(plan, id), Some(Place::Host { called, link })) => {
                let own = link.insert(HostLink::of(id));
                answer(&owner, host::finish(&plan, own, called).map(|doors| ((), doors.into_descriptors().into())))?;
            }
            (Request::Reply { number, from, to }, Some(Place::Namespace { .. })) => {
                let socket = doors::reply_socket(from, to);
                let made = socket.as_ref().map(|_| ()).map_err(|e| e.raw_os_error().unwrap_or_default());
                let descriptors: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
                message::send(&owner, &Replier { number, made }, &descriptors)?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

fn answer<T: Serialize>(owner: impl AsFd, made: Result<(T, Vec<OwnedFd>), Error>) -> io::Result<()> {
    match made {
        Ok((said, descriptors)) => {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            message::send(&owner, &Ok::<T, Error>(said), &descriptors)
        }
        Err(refusal) => {
            message::send(&owner, &Err::<T, _>(refusal), &[])?;
            Err(io::ErrorKind::Other.into())
        }
    }
}

/// Make the namespace and its TAP; also says whether it is in a user namespace of its own.
fn create() -> Result<(OwnedFd, bool), Error> {
    let ours = enter()?;
    // The host's own settings must not matter: nothing is asked, or believed, about addresses and routes. Links take them over
    // when they are made.
    let quiet = set(&[
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ]);
    let tap = quiet.and_then(|()| tap::make(LINK)).map(|(tap, _)| tap);
    Ok((tap.map_err(|e| if ours { e.or_forbidden() } else { e })?, ours))
}

/// Make what goes into the namespace, and put away the rights that were needed.
fn finish(plan: &Plan, ours: bool) -> Result<Doors, Error> {
    let doors = furnish(plan).map_err(|e| if ours { e.or_forbidden() } else { e })?;
    put_away(CapabilitySet::empty())?;
    Ok(doors)
}

/// Enter a new network namespace; for an ordinary user, together with a user namespace (then `true`), where it has rights.
fn enter() -> Result<bool, Error> {
    let mine = capabilities(None).map_err(|e| Error::step("see what this process may do", &e.into()))?.effective;
    let user = !(geteuid().is_root() && mine.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN));
    // After the namespace is entered, these are other numbers.
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {} 1", geteuid().as_raw())),
        ("gid_map", format!("0 {} 1", getegid().as_raw())),
    ];
    let flags = nix::sched::CloneFlags::CLONE_NEWNET;
    let flags = if user { flags | nix::sched::CloneFlags::CLONE_NEWUSER } else { flags };
    nix::sched::unshare(flags).map_err(|e| Error::unsharing(Errno::from_raw_os_error(e as i32)))?;
    for (file, content) in maps.iter().filter(|_| user) {
        fs::write(format!("/proc/self/{file}"), content)
            .map_err(|e| Error::step(&format!("write {file}"), &e).or_forbidden())?;
    }
    Ok(user)
}

fn furnish(plan: &Plan) -> Result<Doors, Error> {
    // The rules take the longest, so they are made beside the rest. No packet comes in before the link is up, and they are in
    // force by then.
    let rules = Ruleset { plan, place: ruleset::Place::Private }.apply()?;
    set(&[
        // Answered by the gateway, for every address is this namespace's own.
        ("ipv4/icmp_echo_ignore_all", "1"),
        ("ipv6/icmp/echo_ignore_all", "1"),
        // Sockets that are not transparent, for IPv6 echoes, speak for any address, too.
        ("ipv6/ip_nonlocal_bind", "1"),
    ])?;
    let doors = Doors::open(None).map_err(|e| Error::step("open the gateway's sockets", &e))?;
    rules.done()?;
    link::configure(&plan.addressing)?;
    Ok(doors)
}

/// Change settings of the namespace's kernel.
pub(super) fn set(settings: &[(&str, &str)]) -> Result<(), Error> {
    for (name, value) in settings {
        fs::write(format!("/proc/sys/net/{name}"), value).map_err(|e| Error::step(&format!("set net/{name}"), &e))?;
    }
    Ok(())
}

/// What stays is what transparent sockets on any port need, and more where there is something to take away at the end.
pub(super) fn put_away(but: CapabilitySet) -> Result<(), Error> {
    let kept = CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE | but;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    // Neither a debugger nor a look into `/proc/<pid>/fd`.
    let away = set_capabilities(None, sets).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    away.map_err(|e| Error::step("give up the rights that are no longer needed", &e.into()))
}
