//! The holder: a small process of this program that enters the namespace, makes everything in it, and stays.
//!
//! It stays because a datagram's answer must come from the address that the guest wrote to, and a socket belongs to the
//! namespace of the process that made it. It ends when its owner does: the socket between them closes, and the kernel would
//! kill it besides.

#![expect(unsafe_code, reason = "a TAP is made by an ioctl that rustix does not know")]

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    ioctl::{Updater, ioctl, opcode},
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, getegid, geteuid, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use super::{
    Doors, Error, LINK, Plan, doors, message,
    message::{Replier, Request},
    netlink,
    ruleset::Ruleset,
};

/// What this program does when it is asked, by its arguments, to be a holder: serve the socket that is its standard input.
///
/// To be called while the process has one thread, or an ordinary user's namespace cannot be entered.
#[must_use]
pub fn hold() -> ExitCode {
    match serve(io::stdin().as_fd()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(owner: impl AsFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_no_new_privs(true)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    match message::receive(&owner)? {
        Some((Request::Build(plan), _)) => match build(&plan) {
            Ok((tap, doors)) => {
                let descriptors = doors.into_descriptors();
                let all: Vec<_> = std::iter::once(&tap).chain(&descriptors).map(AsFd::as_fd).collect();
                message::send(&owner, &Ok::<(), Error>(()), &all)?;
            }
            Err(refusal) => return message::send(&owner, &Err::<(), _>(refusal), &[]),
        },
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    while let Some((request, _)) = message::receive(&owner)? {
        let Request::Reply { number, from, to } = request else { return Err(io::ErrorKind::InvalidData.into()) };
        let socket = doors::reply_socket(from, to);
        let made = socket.as_ref().map(|_| ()).map_err(|e| e.raw_os_error().unwrap_or_default());
        let descriptors: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
        message::send(&owner, &Replier { number, made }, &descriptors)?;
    }
    Ok(())
}

/// Make the namespace and what is in it, and put away the rights that were needed.
fn build(plan: &Plan) -> Result<(OwnedFd, Doors), Error> {
    let ours = enter()?;
    let made = furnish(plan).map_err(|e| if ours { e.or_forbidden() } else { e })?;
    put_away().map_err(|e| Error::step("give up the rights that are no longer needed", &e))?;
    Ok(made)
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

fn furnish(plan: &Plan) -> Result<(OwnedFd, Doors), Error> {
    // The rules take the longest, so they are made beside the rest. No packet comes before the TAP has a reader.
    let rules = Ruleset(plan).apply()?;
    for (name, value) in [
        // Answered by the gateway, for every address is this namespace's own.
        ("ipv4/icmp_echo_ignore_all", "1"),
        ("ipv6/icmp/echo_ignore_all", "1"),
        // Sockets that are not transparent, for IPv6 echoes, speak for any address, too.
        ("ipv6/ip_nonlocal_bind", "1"),
        // The host's own settings must not matter: nothing is asked, or believed, about addresses and routes.
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ] {
        fs::write(format!("/proc/sys/net/{name}"), value).map_err(|e| Error::step(&format!("set net/{name}"), &e))?;
    }
    let tap = tap()?;
    netlink::configure(&plan.addressing)?;
    let doors = Doors::open().map_err(|e| Error::step("open the gateway's sockets", &e))?;
    rules.done()?;
    Ok((tap, doors))
}

/// What stays is what transparent sockets on any port need.
fn put_away() -> io::Result<()> {
    let kept = CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    // Neither a debugger nor a look into `/proc/<pid>/fd`.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A change of rights may have cleared it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
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
