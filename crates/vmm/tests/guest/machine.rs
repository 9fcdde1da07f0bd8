//! A machine with a guest in it, and the host's side of its link.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use matchlock_model::CacheLayout;
use matchlock_vmm::{
    Accelerator, Machine, Policy, initramfs, kernel,
    qemu::{Board, Qemu},
};
use matchlock_wire::{Event, Exec, Hello, Mux, Note, REHEARSAL, Request, Role, RootDisks, Start, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const TCG: Policy = Policy::Only(Accelerator::Tcg);

/// The cache that `matchlock` itself uses, so that the kernel is fetched once.
pub(crate) fn cache() -> CacheLayout {
    CacheLayout::new(&PathBuf::from(std::env::var_os("HOME").expect("HOME is set")))
}

pub(crate) struct Host {
    pub(crate) qemu: Qemu,
    pub(crate) machine: Machine,
}

pub(crate) fn host(board: Board) -> Host {
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
        nic: None,
        console_log: None,
    };
    Host { qemu, machine }
}

pub(crate) const ROOT: RootDisks = RootDisks { lower: 0, upper: 1 };

/// The guest's link after its greeting.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stream: tokio::net::UnixStream,
    pub(crate) mux: Mux,
}

pub(crate) async fn greeted(_pid: i32, control: UnixStream) -> io::Result<Link> {
    let mut link = Link { stream: tokio::net::UnixStream::from_std(control)?, mux: Mux::new(Role::Host) };
    match &link.events().await?[..] {
        [Event::Hello(Hello { protocol })] if *protocol == limits::PROTOCOL => Ok(link),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

impl Link {
    pub(crate) async fn events(&mut self) -> io::Result<Vec<Event>> {
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
    pub(crate) async fn output_of(&mut self, argv: &[&str]) -> String {
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

    /// Have something done.
    pub(crate) async fn have(&mut self, request: &Request) -> io::Result<()> {
        self.ask(request).await?;
        loop {
            for event in self.events().await? {
                match event {
                    Event::Note(_, Note::Done) => return Ok(()),
                    Event::Note(_, Note::Failed(failure)) => return Err(io::Error::other(failure.message)),
                    _ => {}
                }
            }
        }
    }

    pub(crate) async fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.mux.open(request).map_err(io::Error::other)?;
        while self.mux.output_len() > 0 {
            let written = self.stream.write(self.mux.output()).await?;
            self.mux.written(written);
        }
        Ok(())
    }
}

/// An image with `busybox` in it and what is rehearsed.
pub(crate) fn image(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("install the package busybox-static");
    let rehearsal = tree.join(REHEARSAL.trim_start_matches('/'));
    fs::write(&rehearsal, matchlock_vmm::GUEST).unwrap();
    fs::set_permissions(&rehearsal, fs::Permissions::from_mode(0o755)).unwrap();
    let image = dir.join("image, with a comma.erofs");
    let made = Command::new("mkfs.erofs").arg(&image).arg(&tree).output().expect("install the package erofs-utils");
    assert!(made.status.success(), "{made:?}");
    image
}

/// With its root on the first two disks.
pub(crate) fn start() -> Start {
    Start {
        clock_ns: 1_800_000_000_000_000_000,
        entropy: [7; 32],
        hostname: "box".into(),
        root: ROOT,
        ..Start::default()
    }
}

pub(crate) fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}
