//! A guest without a machine: a namespace with a TAP of its own, whose frames are carried to the sandbox's TAP and back,
//! as a VMM would.

#![expect(unsafe_code, reason = "TAPs are made by ioctls")]

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use matchlock_net::namespace::Addressing;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    io::ioctl_fionbio,
    ioctl::{IntegerSetter, Updater, ioctl, opcode},
};

use crate::world::ip;

pub(crate) struct Guest {
    namespace: File,
}

/// A frame with all of a segment, and the header before it.
const FRAME: usize = 65536 + 64;

// linux/if_tun.h
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_uint>(b'T', 208);
const IFF_TAP_NO_PI_VNET_HDR: u16 = 0x0002 | 0x1000 | 0x4000;
const CHECKSUMS_AND_SEGMENTS: usize = 0x01 | 0x02 | 0x04;

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

impl Guest {
    /// A guest on the other side of `sandbox`'s TAP, with its addresses and routes.
    pub(crate) fn boot(sandbox: OwnedFd, a: Addressing) -> Self {
        let (namespace, ours) = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let tap = tap("eth0");
            let Addressing { gateway4, guest4, prefix4, gateway6, guest6, prefix6, mtu } = a;
            ip(&format!(
                "link set lo up\nlink set eth0 mtu {mtu} up\naddr add {guest4}/{prefix4} dev eth0\n\
                 route add default via {gateway4}\n"
            ));
            if a.carries_ipv6() {
                ip(&format!("addr add {guest6}/{prefix6} dev eth0 nodad\nroute add default via {gateway6}\n"));
            }
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
            (File::open("/proc/thread-self/ns/net").unwrap(), tap)
        })
        .join()
        .unwrap();
        ioctl_fionbio(&sandbox, false).unwrap();
        offload(&sandbox);
        offload(&ours);
        let (sandbox, ours) = (File::from(sandbox), File::from(ours));
        carry(sandbox.try_clone().unwrap(), ours.try_clone().unwrap());
        carry(ours, sandbox);
        Self { namespace }
    }

    /// Do something as a program in the guest would.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn tap(name: &str) -> OwnedFd {
    let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap().into();
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP_NO_PI_VNET_HDR, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is 40 bytes long, as this is.
    unsafe { ioctl(&tap, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }.unwrap();
    tap
}

/// As a guest's driver and its VMM agree to: whole segments, with checksums still to be made.
fn offload(tap: &OwnedFd) {
    // SAFETY: TUNSETOFFLOAD takes an integer.
    unsafe { ioctl(tap, IntegerSetter::<TUNSETOFFLOAD>::new_usize(CHECKSUMS_AND_SEGMENTS)) }.unwrap();
}

/// Carry frames until the story is over.
fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut frame = vec![0; FRAME];
        while let Ok(length) = from.read(&mut frame) {
            // A link that is not up yet, or not any more, loses frames.
            let _ = to.write(&frame[..length]);
        }
    });
}
