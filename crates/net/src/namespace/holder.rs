//! The holder: a small process of this program that enters the namespace, makes everything in it, and stays.
//!
//! It stays because a datagram's answer must come from the address that the guest wrote to, and a socket belongs to the
//! namespace of the process that made it. It ends when the last does that has the other end of its socket: whoever was passed
//! that is its owner, so a signal at the end of the process that started it would be one too many.

#![expect(unsafe_code, reason = "a TAP is made by an ioctl that rustix does not know")]

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    ioctl::{Updater, ioctl, opcode},
    process::{DumpableBehavior, Resource, Rlimit, getegid, geteuid, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use super::{
    Doors, Error, LINK, Plan, doors, link, message,
    message::{Replier, Request},
    ruleset::Ruleset,
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
    let mut ours = false;
    while let Some((request, _)) = message::receive(&owner)? {
        match request {
            Request::Create => answer(
                &owner,
                create().map(|(tap, new)| {
                    ours = new;
                    [tap]
                }),
            )?,
            Request::Furnish(plan) => answer(&owner, finish(&plan, ours).map(Doors::into_descriptors))?,
            Request::Reply { number, from, to } => {
                let socket = doors::reply_socket(from, to);
                let made = socket.as_ref().map(|_| ()).map_err(|e| e.raw_os_error().unwrap_or_default());
                let descriptors: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
                message::send(&owner, &Replier { number, made }, &descriptors)?;
            }
        }
    }
    Ok(())
}

fn answer<const N: usize>(owner: impl AsFd, made: Result<[OwnedFd; N], Error>) -> io::Result<()> {
    match made {
        Ok(descriptors) => {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            message::send(&owner, &Ok::<(), Error>(()), &descriptors)
        }
        Err(refusal) => {
            message::send(&owner, &Err::<(), _>(refusal), &[])?;
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
    let tap = quiet.and_then(|()| tap());
    Ok((tap.map_err(|e| if ours { e.or_forbidden() } else { e })?, ours))
}

/// Make what goes into the namespace, and put away the rights that were needed.
fn finish(plan: &Plan, ours: bool) -> Result<Doors, Error> {
    let doors = furnish(plan).map_err(|e| if ours { e.or_forbidden() } else { e })?;
    put_away().map_err(|e| Error::step("give up the rights that are no longer needed", &e))?;
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
    let rules = Ruleset(plan).apply()?;
    set(&[
        // Answered by the gateway, for every address is this namespace's own.
        ("ipv4/icmp_echo_ignore_all", "1"),
        ("ipv6/icmp/echo_ignore_all", "1"),
        // Sockets that are not transparent, for IPv6 echoes, speak for any address, too.
        ("ipv6/ip_nonlocal_bind", "1"),
    ])?;
    let doors = Doors::open().map_err(|e| Error::step("open the gateway's sockets", &e))?;
    rules.done()?;
    link::configure(&plan.addressing)?;
    Ok(doors)
}

/// Change settings of the namespace's kernel.
fn set(settings: &[(&str, &str)]) -> Result<(), Error> {
    for (name, value) in settings {
        fs::write(format!("/proc/sys/net/{name}"), value).map_err(|e| Error::step(&format!("set net/{name}"), &e))?;
    }
    Ok(())
}

/// What stays is what transparent sockets on any port need.
fn put_away() -> io::Result<()> {
    let kept = CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    // Neither a debugger nor a look into `/proc/<pid>/fd`.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// `struct ifreq`, as far as it is used here (linux/if.h).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

// linux/if_tun.h. Frames come with a header about checksums and segments, as virtio's do, so that QEMU need not do either.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);

fn tap() -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = open("/dev/net/tun", flags, Mode::empty()).map_err(Error::opening_tun)?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    request.name[..LINK.len()].copy_from_slice(LINK.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is 40 bytes long, as this is.
    unsafe { ioctl(&tap, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }
        .map_err(|e| Error::step("make the TAP", &e.into()))?;
    Ok(tap)
}
