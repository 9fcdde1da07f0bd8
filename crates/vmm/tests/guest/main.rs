//! Real guests: QEMU, the distribution's kernel, the real guest binary. Each boot takes two to three seconds under
//! emulation. Needs `qemu-system-x86` and `e2fsprogs`, and once the distribution's package archive for a kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;
mod spare;

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use machine::{Host, Link, TCG, cache, exists, greeted, host, image};
use matchlock_vmm::{
    Accelerator, BootError, Booted, ConsoleLog, Deadlines, Disk, ProcessEnd, boot,
    qemu::{ALLOCATOR, Board, QemuError},
    upper,
};
use matchlock_wire::{DiskMount, Request, Start};

async fn start(host: &Host) -> Booted<Link> {
    boot(&host.qemu, &host.machine, TCG, Deadlines::default(), greeted).await.unwrap()
}

#[tokio::test]
async fn a_guest_answers_and_powers_off() {
    let mut host = host(Board::Microvm);
    let said = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&said);
    host.machine.console_log = Some(ConsoleLog::new(move |bytes| log.lock().unwrap().extend_from_slice(bytes)));
    let mut booted = start(&host).await;
    assert_eq!((booted.accelerator, booted.fallback), (Accelerator::Tcg, None));
    let environment = fs::read(format!("/proc/{}/environ", booted.running.pid())).unwrap();
    let (name, value) = ALLOCATOR;
    // The C library may have put an end to each part of it when it took it apart.
    let sees = String::from_utf8_lossy(&environment).trim_end_matches('\0').replace('\0', ":");
    assert_eq!(sees, format!("{name}={value}"), "the VMM sees the user's variables");
    booted.ready.ask(&Request::PowerOff { grace_ms: 0 }).await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(20), booted.running.exited()).await.unwrap().unwrap();
    assert_eq!(exit.process, ProcessEnd::Code(0), "{exit}");
    assert!(!exists(booted.running.pid()));
    assert_eq!(String::from_utf8_lossy(&said.lock().unwrap()), exit.console);
}

/// An image, a writable layer, and two more disks of sizes by which they can be told apart.
fn disks(dir: &Path) -> Vec<Disk> {
    let paths = ["upper", "two", "three"].map(|name| dir.join(name));
    for (path, size) in paths.iter().zip([64, 9, 17]) {
        upper::create(&cache().uppers(), size, path).unwrap();
    }
    let [writable, second, third] = paths;
    vec![Disk::readonly(image(dir)), Disk::scratch(writable), Disk::durable(second), Disk::readonly(third)]
}

async fn disks_are_as_given(board: Board) {
    let dir = tempfile::tempdir().unwrap();
    let mut host = host(board);
    host.machine.disks = disks(dir.path());
    let mut booted = start(&host).await;
    let disk = |device, mount: &str, readonly| DiskMount { device, mount: mount.into(), readonly };
    let disks = vec![disk(2, "/two", false), disk(3, "/three", true)];
    booted.ready.have(&Request::Start(Box::new(Start { disks, ..machine::start() }))).await.unwrap();
    let script = "cd /sys/block && for d in vd?; do echo $d $(cat $d/size $d/ro); done; \
        echo data > /two/file && sync; touch /three/file 2>&1; df -m / | tail -n 1 | cut -c 1-7";
    let shell = ["/bin/busybox", "sh", "-c", &format!("PATH=/bin; busybox --install -s /bin; {script}")];
    let sectors = fs::metadata(&host.machine.disks[0].file).unwrap().len() / 512;
    let expected = format!(
        "vda {sectors} 1\nvdb 131072 0\nvdc 18432 0\nvdd 34816 1\ntouch: /three/file: Read-only file system\noverlay\n"
    );
    assert_eq!(booted.ready.output_of(&shell).await, expected);
    let pid = booted.running.pid();
    drop(booted);
    assert!(!exists(pid));
}

#[tokio::test]
async fn disks_have_the_order_the_size_and_the_rights_they_were_given() {
    disks_are_as_given(Board::Microvm).await;
}

#[tokio::test]
async fn without_microvm_a_pci_board_does_the_same() {
    disks_are_as_given(Board::Q35).await;
}

#[tokio::test]
async fn a_kernel_that_panics_says_so_in_one_line() {
    let mut host = host(Board::Microvm);
    host.machine.cmdline = vec!["rdinit=/nowhere".into(), "init=/nowhere".into()];
    let outcome = boot(&host.qemu, &host.machine, TCG, Deadlines::default(), greeted).await;
    let line = outcome.unwrap_err().to_string();
    assert!(line.contains("the virtual machine ended with exit code 0; the guest's console: \"["), "{line}");
    assert!(!line.contains(char::is_control), "{line}");
}

#[tokio::test]
async fn a_disk_that_is_missing_is_named_and_starts_nothing() {
    let mut host = host(Board::Microvm);
    host.machine.disks = vec![Disk::scratch("/nowhere/disk".into())];
    let outcome = boot(&host.qemu, &host.machine, TCG, Deadlines::default(), greeted).await;
    assert!(
        matches!(outcome.unwrap_err(), BootError::Vmm(QemuError::File(path, _)) if path == Path::new("/nowhere/disk"))
    );
}

#[tokio::test]
async fn a_guest_that_stays_silent_is_started_again_and_then_given_up() {
    let host = host(Board::Microvm);
    let deadlines = Deadlines { tcg: Duration::from_millis(300), ..Deadlines::default() };
    let attempts = AtomicUsize::new(0);
    let outcome = boot(&host.qemu, &host.machine, TCG, deadlines, async |_, control| {
        attempts.fetch_add(1, Ordering::Relaxed);
        greeted(0, control).await
    });
    let error = outcome.await.unwrap_err();
    assert!(matches!(error, BootError::NotReady { attempts: 3, .. }), "{error}");
    assert_eq!(attempts.into_inner(), 3);
}
