//! A machine with a guest in it, from the host's side, and the images that it runs.

use std::{
    collections::VecDeque,
    fs, io,
    io::{Read, Write},
    net::IpAddr,
    os::unix::{fs::PermissionsExt, fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use matchlock_model::CacheLayout;
use matchlock_vmm::{
    Accelerator, Deadlines, Disk, Machine, Policy, ProcessEnd, Running, boot, initramfs, kernel, qemu::Qemu, upper,
};
use matchlock_wire::{Event, Exec, HostEntry, Mux, Note, Request, Role, RootDisks, SessionId, Start};

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

const NAMES: &str = "awk cat cut date dd df env find grep hostname id kill ls mount mv ping pwd readlink seq sh sleep sort \
    stat stty sync tr touch true tty wc";

/// A tree of files with which an image is made.
pub(crate) struct Image(tempfile::TempDir);

impl Image {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for an image"))
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join("tree").join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("folders of the image");
        path
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) {
        fs::write(self.path(path), content).expect("a file of the image");
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).expect("its mode");
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        symlink(target, self.path(path)).expect("a link of the image");
    }

    /// The whole of busybox as one static program.
    pub(crate) fn busybox(&self, path: &str) {
        fs::copy("/bin/busybox", self.path(path)).expect("install the package busybox-static");
    }

    /// Where [`Image::build`] puts it.
    pub(crate) fn built(&self) -> PathBuf {
        self.0.path().join("image.erofs")
    }

    pub(crate) fn build(&self) -> PathBuf {
        let (image, tree) = (self.built(), self.0.path().join("tree"));
        let made = Command::new("mkfs.erofs").arg("--all-root").arg(&image).arg(&tree).output();
        let made = made.expect("install the package erofs-utils");
        assert!(made.status.success(), "{made:?}");
        image
    }
}

/// busybox under its many names, with users, and with content where other systems would hide it.
pub(crate) fn distribution() -> Image {
    let image = Image::new();
    image.busybox("bin/busybox");
    for name in NAMES.split(' ').filter(|name| !name.is_empty()) {
        image.link(&format!("bin/{name}"), "busybox");
    }
    image.file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n", 0o644);
    image.file("etc/group", "root:x:0:\napp:x:1001:\nwheel:x:10:app\n", 0o644);
    image.file("etc/hosts", "1.2.3.4 from-the-image\n", 0o600);
    image.link("etc/resolv.conf", "/run/somewhere/resolv.conf");
    image.file("tmp/kept", "from the image\n", 0o644);
    image.file("run/kept", "from the image\n", 0o644);
    image.file("folder/inside", "x", 0o644);
    image
}

pub(crate) fn cache() -> CacheLayout {
    CacheLayout::new(&PathBuf::from(std::env::var_os("HOME").expect("HOME is set")))
}

/// The host's side of a machine.
pub(crate) struct Vm {
    pub(crate) running: Running,
    pub(crate) socket: UnixStream,
    pub(crate) mux: Mux,
    events: VecDeque<Event>,
    pub(crate) writable: PathBuf,
    folder: tempfile::TempDir,
}

/// All that happened in a session.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) output: String,
    pub(crate) notes: Vec<Note>,
}

impl Vm {
    /// Boot a machine with this image, a fresh writable disk, and `more` disks, and wait for its greeting.
    pub(crate) async fn boot(image: &Image, more: &[&Path]) -> Self {
        Self::boot_with(image, more.iter().map(|path| Disk::durable(path.to_path_buf())).collect()).await
    }

    pub(crate) async fn boot_with(image: &Image, more: Vec<Disk>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for a machine");
        let qemu = Qemu::find(&cache().host()).expect("install the package qemu-system-x86");
        let kernel = kernel::resolve(None, &cache().kernels(), qemu.transport()).expect("a kernel");
        let modules = kernel.modules(qemu.transport()).expect("its modules");
        let writable = folder.path().join("upper.ext4");
        upper::create(&cache().uppers(), 128, &writable).expect("install the package e2fsprogs");
        let disks = [Disk::readonly(image.build()), Disk::scratch(writable.clone())];
        let machine = Machine {
            vcpus: 1,
            memory_mb: 256,
            kernel: kernel.image,
            initramfs: initramfs::assemble(&cache().initramfs(), matchlock_vmm::GUEST, &modules).expect("an initramfs"),
            cmdline: Vec::new(),
            disks: disks.into_iter().chain(more).collect(),
            nic: None,
            console_log: None,
        };
        let policy = Policy::Only(Accelerator::Tcg);
        let booted = boot(&qemu, &machine, policy, Deadlines::default(), hello).await.expect("a guest that answers");
        let (socket, mux) = booted.ready;
        Self { running: booted.running, socket, mux, events: VecDeque::new(), writable, folder }
    }

    /// The next event; `None` when the machine is gone.
    pub(crate) fn next(&mut self) -> Option<Event> {
        while self.mux.output_len() > 0 {
            let count = self.socket.write(self.mux.output()).expect("the machine listens");
            self.mux.written(count);
        }
        let mut buffer = vec![0; 64 * 1024];
        while self.events.is_empty() {
            let read = self.socket.read(&mut buffer);
            let count = read.expect("the guest answers in time");
            if count == 0 {
                return None;
            }
            let events = self.mux.receive(&buffer[..count]).expect("the guest keeps to the protocol");
            self.events.extend(events);
        }
        self.events.pop_front()
    }

    pub(crate) fn follow(&mut self, id: SessionId) -> Story {
        let (mut story, mut output) = (Story::default(), Vec::new());
        loop {
            match self.next().expect("the machine runs") {
                Event::Data(of, channel, bytes) => {
                    self.mux.grant(of, channel, u32::try_from(bytes.len()).expect("a small frame"));
                    output.extend(bytes);
                }
                Event::Note(_, note) => story.notes.push(note),
                Event::Ended(of) if of == id => break,
                _ => {}
            }
        }
        story.output = String::from_utf8(output).expect("text");
        story
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Story {
        let id = self.mux.open(request).expect("a small request");
        self.follow(id)
    }

    pub(crate) fn start(&mut self, change: impl FnOnce(&mut Start)) {
        assert_eq!(self.try_start(change).notes, [Note::Done]);
    }

    pub(crate) fn try_start(&mut self, change: impl FnOnce(&mut Start)) -> Story {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let mut start = Start {
            clock_ns: u64::try_from(now.as_nanos()).expect("it is before 2554"),
            entropy: [7; 32],
            hostname: "box".to_owned(),
            network: None,
            authority: None,
            dns_servers: vec![IpAddr::from([1, 1, 1, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x53])],
            add_hosts: vec![HostEntry { host: "db".to_owned(), ip: IpAddr::from([10, 0, 0, 7]) }],
            root: RootDisks { lower: 0, upper: 1 },
            disks: Vec::new(),
            cpu_quota: None,
            privileged: false,
            timings: false,
        };
        change(&mut start);
        self.ask(&Request::Start(Box::new(start)))
    }

    pub(crate) fn exec(&mut self, argv: &[&str]) -> Story {
        let argv = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.ask(&Request::Exec(Exec { argv, ..Exec::default() }))
    }

    /// What a shell's script writes.
    pub(crate) fn shell(&mut self, script: &str) -> String {
        self.exec(&["sh", "-c", &format!("exec 2>&1; {script}")]).output
    }

    /// Switch the machine off, and wait until it is.
    pub(crate) async fn power_off(mut self, grace: Duration) -> PoweredOff {
        let grace_ms = u32::try_from(grace.as_millis()).expect("a short time");
        let asked = self.mux.open(&Request::PowerOff { grace_ms }).expect("a small request");
        let (mut notes, mut last) = (Vec::new(), None);
        while let Some(event) = self.next() {
            notes.extend(if let Event::Note(_, note) = &event { Some(note.clone()) } else { None });
            last = Some(event);
        }
        assert_eq!(
            (notes.last(), last),
            (Some(&Note::Done), Some(Event::Ended(asked))),
            "a clean end is said to be one"
        );
        let exit = tokio::time::timeout(PATIENCE, self.running.exited()).await.expect("it ends").expect("it is ours");
        assert_eq!(exit.process, ProcessEnd::Code(0), "{exit:?}");
        PoweredOff { notes, writable: self.writable, _folder: self.folder }
    }
}

/// What a machine leaves.
pub(crate) struct PoweredOff {
    pub(crate) notes: Vec<Note>,
    pub(crate) writable: PathBuf,
    _folder: tempfile::TempDir,
}

async fn hello(_pid: i32, control: UnixStream) -> io::Result<(UnixStream, Mux)> {
    let stream = tokio::net::UnixStream::from_std(control)?;
    let mut mux = Mux::new(Role::Host);
    loop {
        stream.readable().await?;
        let mut buffer = [0; 4096];
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                if let [Event::Hello(_)] = mux.receive(&buffer[..count]).map_err(io::Error::other)?[..] {
                    let socket = stream.into_std()?;
                    socket.set_nonblocking(false)?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    return Ok((socket, mux));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
