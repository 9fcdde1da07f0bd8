//! Real guests: QEMU, the distribution's kernel, the real guest binary. Each boot takes two to three seconds under
//! emulation. Needs `qemu-system-x86` and `e2fsprogs`, and once the distribution's package archive for a kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use matchlock_model::CacheLayout;
use matchlock_vmm::{
    Accelerator, BootError, Booted, ConsoleLog, Deadlines, Disk, Machine, Policy, ProcessEnd, boot, initramfs, kernel,
    qemu::{Board, Qemu, QemuError},
    upper,
};
use matchlock_wire::{DiskMount, Event, Exec, Hello, Mux, Note, Request, Role, RootDisks, Start, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TCG: Policy = Policy::Only(Accelerator::Tcg);

/// The cache that `matchlock` itself uses, so that the kernel is fetched once.
fn cache() -> CacheLayout {
    CacheLayout::new(&PathBuf::from(std::env::var_os("HOME").expect("HOME is set")))
}

struct Host {
    qemu: Qemu,
    machine: Machine,
}

fn host(board: Board) -> Host {
    let cache = cache();
    let qemu = Qemu::find(&cache.host()).unwrap().with_board(board);
    let kernel = kernel::resolve(None, &cache.kernels(), qemu.transport()).unwrap();
    let modules = kernel.modules(qemu.transport()).unwrap();
    let initramfs = initramfs::assemble(&cache.initramfs(), matchlock_vmm::GUEST, &modules).unwrap();
    let machine = Machine {
        vcpus: 1,
        memory_mb: 256,
        kernel: kernel.image,
        initramfs,
        cmdline: Vec::new(),
        disks: Vec::new(),
        console_log: None,
    };
    Host { qemu, machine }
}

/// The guest's link after its greeting.
#[derive(Debug)]
struct Link {
    stream: tokio::net::UnixStream,
    mux: Mux,
}

async fn greeted(_pid: i32, control: UnixStream) -> io::Result<Link> {
    let mut link = Link { stream: tokio::net::UnixStream::from_std(control)?, mux: Mux::new(Role::Host) };
    match &link.events().await?[..] {
        [Event::Hello(Hello { protocol })] if *protocol == limits::PROTOCOL => Ok(link),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

impl Link {
    async fn events(&mut self) -> io::Result<Vec<Event>> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let events = self.mux.receive(&buffer[..read]).map_err(io::Error::other)?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Have a program run in the sandbox; what it wrote to its output.
    async fn output_of(&mut self, argv: &[&str]) -> String {
        let argv = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.ask(&Request::Exec(Exec { argv, ..Exec::default() })).await.unwrap();
        let mut output = Vec::new();
        loop {
            for event in self.events().await.unwrap() {
                match event {
                    Event::Data(_, _, bytes) => output.extend(bytes),
                    Event::Note(_, Note::Exited(_)) => return String::from_utf8(output).unwrap(),
                    Event::Note(_, Note::Failed(failure)) => panic!("{failure:?}"),
                    _ => {}
                }
            }
        }
    }

    async fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.mux.open(request).map_err(io::Error::other)?;
        while self.mux.output_len() > 0 {
            let written = self.stream.write(self.mux.output()).await?;
            self.mux.written(written);
        }
        Ok(())
    }
}

async fn start(host: &Host) -> Booted<Link> {
    boot(&host.qemu, &host.machine, TCG, Deadlines::default(), greeted).await.unwrap()
}

fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
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
    assert!(environment.is_empty(), "the VMM sees the user's variables");
    booted.ready.ask(&Request::PowerOff { grace_ms: 0 }).await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(20), booted.running.exited()).await.unwrap().unwrap();
    assert_eq!(exit.process, ProcessEnd::Code(0), "{exit}");
    assert!(!exists(booted.running.pid()));
    assert_eq!(String::from_utf8_lossy(&said.lock().unwrap()), exit.console);
}

/// An image with `busybox` in it, a writable layer, and two more disks of sizes by which they can be told apart.
fn disks(dir: &Path) -> Vec<Disk> {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("install the package busybox-static");
    let image = dir.join("image, with a comma.erofs");
    let made = Command::new("mkfs.erofs").arg(&image).arg(&tree).output().expect("install the package erofs-utils");
    assert!(made.status.success(), "{made:?}");
    let paths = ["upper", "two", "three"].map(|name| dir.join(name));
    for (path, size) in paths.iter().zip([64, 9, 17]) {
        upper::create(&cache().uppers(), size, path).unwrap();
    }
    let [writable, second, third] = paths;
    vec![Disk::readonly(image), Disk::scratch(writable), Disk::durable(second), Disk::readonly(third)]
}

async fn become_sandbox(link: &mut Link) {
    let disk = |device, mount: &str, readonly| DiskMount { device, mount: mount.into(), readonly };
    let start = Start {
        clock_ns: 1_800_000_000_000_000_000,
        entropy: [7; 32],
        hostname: "box".into(),
        dns_servers: Vec::new(),
        add_hosts: Vec::new(),
        root: RootDisks { lower: 0, upper: 1 },
        disks: vec![disk(2, "/two", false), disk(3, "/three", true)],
        cpu_quota: None,
        privileged: false,
        timings: false,
    };
    link.ask(&Request::Start(Box::new(start))).await.unwrap();
    let events = link.events().await.unwrap();
    assert!(matches!(events[0], Event::Note(_, Note::Done)), "{events:?}");
}

async fn disks_are_as_given(board: Board) {
    let dir = tempfile::tempdir().unwrap();
    let mut host = host(board);
    host.machine.disks = disks(dir.path());
    let mut booted = start(&host).await;
    become_sandbox(&mut booted.ready).await;
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
