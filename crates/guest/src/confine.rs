//! What commands may not do unless the sandbox is privileged: five capabilities are out of reach, `execve` gains no
//! privilege, and a handful of system calls fail with `EPERM`.
//!
//! Applied once, by [`crate::start`], to the agent itself: every command inherits it, so that starting one costs nothing
//! more. The agent needs none of what it gives up; what it still may do as PID 1 (mount, reboot) is not affected, for the
//! bounding set takes effect in `execve` only.

#![expect(unsafe_code, reason = "rustix cannot install a seccomp filter")]

use rustix::{
    io::Errno,
    thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs},
};

use crate::reap::last_errno;

const OUT_OF_REACH: [CapabilitySet; 5] = [
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_BOOT,
];

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` (linux/audit.h).
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// What marks a system call of the x32 ABI, which shares the architecture number of x86-64 (asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;

/// `ptrace`, `process_vm_readv`, `process_vm_writev`, `kexec_load`, `kexec_file_load` of x86-64, then the four of them
/// that have their own numbers on x32 (`syscall_64.tbl`).
const DENIED_X86_64: [u32; 9] = [101, 310, 311, 246, 320, 521, 539, 540, 528];

/// `ptrace`, `process_vm_readv`, `process_vm_writev`, `kexec_load` of i386 (`syscall_32.tbl`), which has no fifth.
const DENIED_I386: [u32; 4] = [26, 347, 348, 283];

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Confine this process and all that come from it, for good.
pub(crate) fn confine() -> Result<(), Errno> {
    for capability in OUT_OF_REACH {
        remove_capability_from_bounding_set(capability)?;
    }
    set_no_new_privs(true)?;
    install(&filter())
}

fn install(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, whose length is given with it, before the call returns.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The filter, as classic BPF.
///
/// An architecture that this kernel cannot run falls through both tables and is allowed.
fn filter() -> Vec<libc::sock_filter> {
    let i386 = table(DENIED_I386.as_slice());
    let mut program = vec![load(ARCHITECTURE), skip_unless_equal(I386, i386.len() + 1), load(NUMBER)];
    program.extend(i386);
    let native = table(DENIED_X86_64.as_slice());
    program.extend([skip_unless_equal(X86_64, native.len() + 2), load(NUMBER), clear(X32_BIT)]);
    program.extend(native);
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

/// Refuse the system calls in `denied`, allow all others.
fn table(denied: &[u32]) -> Vec<libc::sock_filter> {
    let mut program = Vec::new();
    for number in denied {
        program.extend([
            skip_unless_equal(*number, 1),
            give(libc::SECCOMP_RET_ERRNO | Errno::PERM.raw_os_error().cast_unsigned()),
        ]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn clear(bits: u32) -> libc::sock_filter {
    statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !bits)
}

fn give(answer: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, answer)
}

fn skip_unless_equal(value: u32, skip: usize) -> libc::sock_filter {
    let jf = u8::try_from(skip).unwrap_or(u8::MAX); // tables are short: a test runs the whole program
    libc::sock_filter { jf, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value) }
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run the filter as the kernel would.
    fn judge(architecture: u32, number: u32) -> u32 {
        let program = filter();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                0x20 => accumulator = if step.k == 0 { number } else { architecture },
                0x54 => accumulator &= step.k,
                0x15 => at += usize::from(if accumulator == step.k { step.jt } else { step.jf }),
                0x06 => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const DENIED: u32 = libc::SECCOMP_RET_ERRNO | 1;

    #[test]
    fn the_five_calls_are_refused_on_every_abi() {
        for number in [libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev] {
            assert_eq!(judge(X86_64, u32::try_from(number).unwrap()), DENIED);
        }
        for number in [libc::SYS_kexec_load, libc::SYS_kexec_file_load] {
            assert_eq!(judge(X86_64, u32::try_from(number).unwrap()), DENIED);
        }
        for number in [521, 528, 539, 540, 320, 101] {
            assert_eq!(judge(X86_64, X32_BIT | number), DENIED, "x32 {number}");
        }
        for number in [26, 283, 347, 348] {
            assert_eq!(judge(I386, number), DENIED, "i386 {number}");
        }
    }

    /// In a child of its own, for it is for good.
    #[test]
    fn a_confined_process_is_refused_by_the_kernel_itself() {
        if !rustix::process::getuid().is_root() {
            eprintln!("skipped: giving up capabilities takes root");
            return;
        }
        // SAFETY: the child makes system calls only, and `confine` allocates: it may, while no other thread of this
        // process holds the allocator's lock, which the C library sees to in `fork`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: neither call touches memory; `_exit` ends the child without running what is the parent's.
            unsafe {
                let refused = |result: libc::c_long| result == -1 && last_errno() == Errno::PERM;
                let confined = confine().is_ok()
                    && refused(libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0))
                    && refused(libc::syscall(libc::SYS_process_vm_readv, libc::getpid(), 0, 0, 0, 0, 0))
                    && rustix::thread::no_new_privs().is_ok_and(|set| set)
                    && !OUT_OF_REACH
                        .into_iter()
                        .any(|gone| rustix::thread::capability_is_in_bounding_set(gone) != Ok(false));
                libc::_exit(if confined { 7 } else { 1 });
            }
        }
        let mut status = 0;
        // SAFETY: `status` lives until the call returns.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 7));
    }

    #[test]
    fn everything_else_is_allowed() {
        for number in (0..600).filter(|number| !DENIED_X86_64.contains(number)) {
            assert_eq!(judge(X86_64, number), libc::SECCOMP_RET_ALLOW, "{number}");
        }
        for number in (0..600).filter(|number| !DENIED_I386.contains(number)) {
            assert_eq!(judge(I386, number), libc::SECCOMP_RET_ALLOW, "i386 {number}");
        }
        assert_eq!(judge(0xc000_00b7, 117), libc::SECCOMP_RET_ALLOW);
    }
}
