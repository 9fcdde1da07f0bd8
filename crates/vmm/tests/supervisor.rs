//! A machine does not outlive the process that started it, however that one ends.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use matchlock_model::CacheLayout;
use matchlock_vmm::{Accelerator, GUEST, Machine, Origin, Vmm, initramfs, kernel, qemu::Qemu};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// For the kernel to end a process.
const DEATH_DEADLINE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

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
        console_log: None,
    };
    // On a thread that ends at once: the machine must not end with it.
    let runtime = tokio::runtime::Handle::current();
    let start = move || runtime.block_on(qemu.start(&machine, Accelerator::Tcg, Origin::Kernel)).unwrap();
    let matchlock_vmm::Started { running, control: _control, .. } =
        tokio::task::spawn_blocking(|| std::thread::spawn(start).join().unwrap()).await.unwrap();
    let early_end = tokio::time::timeout(std::time::Duration::from_millis(500), running.exited()).await;
    assert!(early_end.is_err(), "{early_end:?}");
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
