//! Keepers with shell scripts in place of VMMs, seen from their lifelines.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{self, BufRead, BufReader, PipeReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use matchlock_vmm::{
    KEEPER_VERB, ProcessEnd,
    keeper::{LIFELINE_FD, Report},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// For the kernel to end a process, and for a shell to do next to nothing.
const DEADLINE: Duration = Duration::from_secs(30);

/// A keeper, as its owner sees it.
struct Kept {
    keeper: Child,
    lifeline: UnixStream,
    /// What the VMM writes to its standard error.
    errors: BufReader<PipeReader>,
}

/// Start a keeper of `words`, to which `descriptors` are passed as well.
fn keep(words: &[&str], descriptors: Vec<(OwnedFd, i32)>) -> Kept {
    let (lifeline, keepers) = UnixStream::pair().unwrap();
    lifeline.set_read_timeout(Some(DEADLINE)).unwrap();
    let (errors, vmms) = io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchlock-test-keeper"));
    command.arg(KEEPER_VERB).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(vmms);
    let descriptors = descriptors.into_iter().chain([(keepers.into(), LIFELINE_FD)]);
    let mappings = descriptors.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).unwrap();
    Kept { keeper: command.spawn().unwrap(), lifeline, errors: BufReader::new(errors) }
}

fn keep_script(script: &str) -> Kept {
    keep(&["/bin/sh", "-c", script], Vec::new())
}

impl Kept {
    /// The next report, or nothing once the keeper has ended.
    fn report(&mut self) -> Option<Report> {
        let mut record = [0; Report::SIZE];
        match self.lifeline.read(&mut record).unwrap() {
            0 => None,
            read => Report::from_bytes(record).filter(|_| read == record.len()),
        }
    }

    fn vmm(&mut self) -> i32 {
        match self.report() {
            Some(Report::Runs(pid)) => pid,
            other => panic!("{other:?}"),
        }
    }

    /// What the VMM says first, which it says when it has come to life.
    fn first_line(&mut self) -> String {
        let mut line = String::new();
        self.errors.read_line(&mut line).unwrap();
        line
    }
}

/// Wait until all is said and nobody can say more.
fn wait_for_silence(errors: &mut BufReader<PipeReader>) {
    assert!(becomes_readable(errors.get_ref()), "somebody holds its standard error open");
    assert_eq!(errors.read(&mut [0]).unwrap(), 0, "somebody holds its standard error open");
}

fn becomes_readable(descriptor: impl AsFd) -> bool {
    let deadline = Timespec::try_from(DEADLINE).unwrap();
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&deadline)).unwrap() == 1
}

fn pidfd(pid: i32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap()
}

fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

#[test]
fn the_end_is_reported_when_the_vmm_is_gone_and_the_keeper_goes_too() {
    for (script, end) in [("exit 7", ProcessEnd::Code(7)), ("kill -TERM $$", ProcessEnd::Signal(15))] {
        let mut kept = keep_script(script);
        let pid = kept.vmm();
        assert_eq!(kept.report(), Some(Report::Ended(end)));
        assert!(!exists(pid));
        assert_eq!(kept.report(), None);
        assert!(kept.keeper.wait().unwrap().success());
    }
}

#[test]
fn a_program_that_cannot_be_started_is_reported_with_the_reason() {
    let mut kept = keep(&["/nowhere/qemu"], Vec::new());
    assert_eq!(kept.report(), Some(Report::Refused(rustix::io::Errno::NOENT.raw_os_error())));
    assert_eq!(kept.report(), None);
}

#[test]
fn without_a_lifeline_nothing_is_started() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchlock-test-keeper"));
    let output = command.args([KEEPER_VERB, "/bin/sh", "-c", "echo started"]).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn the_vmm_ends_with_the_lifeline_however_that_ends() {
    // The owner's own end, and its order.
    let order = |lifeline: &UnixStream| lifeline.shutdown(std::net::Shutdown::Write).unwrap();
    for ordered in [false, true] {
        let mut kept = keep_script("echo here >&2; exec sleep 1000");
        let vmm = pidfd(kept.vmm());
        assert_eq!(kept.first_line(), "here\n");
        if ordered {
            order(&kept.lifeline);
            assert_eq!(kept.report(), Some(Report::Ended(ProcessEnd::Signal(Signal::KILL.as_raw()))));
        }
        let Kept { mut keeper, lifeline, mut errors } = kept;
        drop(lifeline);
        assert!(becomes_readable(&vmm));
        wait_for_silence(&mut errors);
        assert!(keeper.wait().unwrap().success());
    }
}

#[test]
fn the_vmm_ends_with_its_keeper_whatever_ends_that_and_the_owner_hears_only_that() {
    for signal in [Signal::KILL, Signal::TERM] {
        let mut kept = keep_script("echo here >&2; exec sleep 1000");
        let vmm = pidfd(kept.vmm());
        assert_eq!(kept.first_line(), "here\n");
        kill_process(Pid::from_child(&kept.keeper), signal).unwrap();
        assert_eq!(kept.report(), None);
        assert!(becomes_readable(&vmm));
        kept.keeper.wait().unwrap();
    }
}

#[test]
fn a_keeper_holds_nothing_of_its_vmms_and_the_vmm_no_lifeline() {
    let (link, vmms) = UnixStream::pair().unwrap();
    let mut kept = keep(&["/bin/sh", "-c", "read line <&9; exit 3"], vec![(vmms.into(), 9)]);
    let vmm = kept.vmm();
    // The standard streams, the VMM's pidfd and the lifeline.
    assert_eq!(open_in(kept.keeper.id()), [0, 1, 2, 3, LIFELINE_FD]);
    let streams = [0, 1, 2].map(|stream| fs::read_link(format!("/proc/{}/fd/{stream}", kept.keeper.id())).unwrap());
    assert!(streams.iter().all(|file| file == Path::new("/dev/null")), "{streams:?}");
    let open = open_in(vmm.cast_unsigned());
    assert!(open.contains(&9) && !open.contains(&LIFELINE_FD), "{open:?}");
    // A link ends when the VMM does.
    drop(link);
    assert_eq!(kept.report(), Some(Report::Ended(ProcessEnd::Code(3))));
}

fn open_in(pid: u32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut open: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    open.sort_unstable();
    open
}
