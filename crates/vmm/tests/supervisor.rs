//! A machine and a helper program do not outlive the process that started them, however that one ends.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use matchlock_model::CacheLayout;
use matchlock_vmm::{Accelerator, GUEST, Machine, Origin, Vmm, initramfs, kernel, qemu::Qemu, upper};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// For the kernel to end a process.
const DEATH_DEADLINE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// For a guest to boot under emulation on a busy host.
const BOOT_DEADLINE: Duration = Duration::from_mins(2);

const MARK: &str = "the machine's process is ";

#[tokio::test]
#[ignore = "run by the next test as a process of its own, which is then killed"]
async fn supervisor() {
    let cache = CacheLayout::new(&PathBuf::from(std::env::var_os("HOME").unwrap()));
    let qemu = Qemu::find(&cache.host()).unwrap();
    let kernel = kernel::resolve(None, &cache.kernels(), qemu.transport()).unwrap();
    let modules = kernel.modules(qemu.transport()).unwrap();
    let machine = Machine {
        vcpus: 1,
        memory_mb: 128,
        kernel: kernel.image,
        initramfs: initramfs::assemble(&cache.initramfs(), GUEST, &modules).unwrap(),
        cmdline: Vec::new(),
        disks: Vec::new(),
        nic: None,
        console_log: None,
    };
    // On a thread that ends at once: the machine must not end with it.
    let runtime = tokio::runtime::Handle::current();
    let start = move || runtime.block_on(qemu.start(&machine, Accelerator::Tcg, Origin::Kernel)).unwrap();
    let matchlock_vmm::Started { running, control, .. } =
        tokio::task::spawn_blocking(|| std::thread::spawn(start).join().unwrap()).await.unwrap();
    // What it says when it has booted, long after that thread.
    control.set_nonblocking(true).unwrap();
    let control = tokio::net::UnixStream::from_std(control).unwrap();
    let mut first = [0];
    let said = tokio::time::timeout(BOOT_DEADLINE, async {
        loop {
            control.readable().await?;
            match control.try_read(&mut first) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    });
    assert_eq!(said.await.unwrap().unwrap(), 1, "the machine ended with its thread");
    println!("{MARK}{}", running.pid());
    std::future::pending::<()>().await;
}

#[test]
fn a_machine_dies_with_a_killed_supervisor() {
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(["supervisor", "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let pid = lines.map(Result::unwrap).find_map(|line| line.split_once(MARK)?.1.parse().ok()).expect("a machine");
    let machine = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let ended = poll(&mut [PollFd::new(&machine, PollFlags::IN)], Some(&DEATH_DEADLINE)).unwrap();
    assert_eq!(ended, 1, "process {pid} is still there");
}

#[test]
#[ignore = "run by the next test as a process of its own, which is then killed"]
fn formatter() {
    upper::original(&PathBuf::from(std::env::var_os("UPPERS").unwrap()), 64).unwrap();
}

#[test]
fn a_helper_program_dies_with_a_killed_process() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // The pipe ends when this program, which nothing else ends, does.
    for tool in ["mke2fs", "debugfs"] {
        let script = format!("#!/bin/sh\nexec 9>'{}'\necho here >&9\nexec sleep 1000\n", fifo.display());
        fs::write(folder.path().join(tool), script).unwrap();
        fs::set_permissions(folder.path().join(tool), Permissions::from_mode(0o755)).unwrap();
    }
    let path = [folder.path().as_os_str(), &std::env::var_os("PATH").unwrap()].join(OsStr::new(":"));
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["formatter", "--exact", "--ignored", "--nocapture"])
        .env("PATH", path)
        .env("UPPERS", folder.path().join("uppers"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut helper = BufReader::new(fs::File::open(&fifo).unwrap());
    let mut line = String::new();
    helper.read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    process.kill().unwrap();
    process.wait().unwrap();
    let ended = poll(&mut [PollFd::new(helper.get_ref(), PollFlags::IN)], Some(&DEATH_DEADLINE)).unwrap();
    assert_eq!(ended, 1, "mke2fs is still there");
    assert_eq!(helper.read_line(&mut line).unwrap(), 0);
}
