//! Saved guests that go on with a keeper, and change hands.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use matchlock_vmm::{
    Accelerator, BootError, ConsoleLog, Deadlines, Disk, ProcessEnd, Recipe, Running, Spare, Templates, Vmm, adopt,
    boot,
    qemu::{Board, Qemu},
    restore, save, upper,
};
use matchlock_wire::{Mux, Park, Request, Start, Warm, limits};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    process::{Pid, Signal, kill_process},
};
use tokio::io::AsyncReadExt;

use crate::machine::{Host, Link, ROOT, TCG, cache, exists, greeted, host, image, start};

/// For a restored guest to answer, in processor time; and for the kernel to end a process.
const DEADLINE: Duration = Duration::from_secs(20);

/// The size that a saved guest knows of its disks.
const STAND_IN_SIZE: u64 = 1 << 40;
const LAYER_MB: u64 = 64;

/// Where the process that makes a spare finds its template.
const FOLDER: &str = "SPARE_FOLDER";

/// A shape and its template. The disks are an image, a layer, one to write to and one to read.
struct Saved {
    host: Host,
    templates: Templates,
    recipe: Recipe,
}

fn path_of(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// A file of a mebibyte that begins with `words`.
fn file(path: &Path, words: &str) -> PathBuf {
    let file = File::create_new(path).unwrap();
    file.write_all_at(words.as_bytes(), 0).unwrap();
    file.set_len(1024 * 1024).unwrap();
    path.to_owned()
}

/// The guest is told to be privileged, so that it may look at disks that are not mounted.
async fn saved(folder: &Path) -> Saved {
    let mut host = host(Board::Microvm);
    let disk = |name| folder.join(name);
    host.machine.disks = vec![
        Disk::readonly(image(folder)),
        Disk::scratch(disk("layer")),
        Disk::scratch(disk("a")),
        Disk::readonly(disk("b")),
    ];
    let templates = Templates::new(folder.join("templates"));
    let recipe = host.qemu.recipe(&host.machine, Accelerator::Tcg, "test".to_owned()).unwrap();
    if let Some(unfinished) = templates.begin(&recipe, host.qemu.tsc_khz()).unwrap() {
        let mut stand_ins = host.machine.clone();
        let image = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
        io::copy(&mut File::open(&host.machine.disks[0].file).unwrap(), &mut &image).unwrap();
        let layer = tempfile::tempfile().unwrap();
        upper::fill(&cache().uppers(), LAYER_MB, &layer).unwrap();
        let others = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        for (disk, file) in stand_ins.disks.iter_mut().zip([&image, &layer].into_iter().chain(&others)) {
            file.set_len(STAND_IN_SIZE).unwrap();
            disk.file = path_of(file);
        }
        let park = async |pid, control| {
            let mut link = greeted(pid, control).await?;
            link.have(&Request::Park(Park { root: ROOT, privileged: true, network: None })).await.map(|()| link)
        };
        save(&host.qemu, unfinished, (&stand_ins, Accelerator::Tcg), (layer, LAYER_MB << 20), park).await.unwrap();
    }
    Saved { host, templates, recipe }
}

impl Saved {
    /// A guest that goes on, warm, with files of its own that are in `folder` or have no name.
    async fn restored(&self, qemu: &Qemu, folder: &Path) -> (Running, Link) {
        let layer = tempfile::tempfile().unwrap();
        let template = self.templates.find(&self.recipe, self.host.qemu.tsc_khz()).unwrap();
        upper::copy_to(&template.layer, &layer).unwrap();
        let mut machine = self.host.machine.clone();
        machine.disks[1].file = path_of(&layer);
        for (disk, name) in machine.disks[2..].iter_mut().zip(["old-a", "old-b"]) {
            disk.file = file(&folder.join(name), name);
        }
        let get_warm = async |_, control| {
            let mut link = link(control, limits::PARKING_SESSIONS);
            link.have(&Request::Warm(Warm { entropy: [1; 32], root: ROOT, image: true })).await.map(|()| link)
        };
        restore(qemu, &machine, (&template, Accelerator::Tcg), DEADLINE, get_warm).await.unwrap()
    }

    async fn spare(&self, folder: &Path) -> Spare {
        let (running, link) = self.restored(&self.kept(), folder).await;
        running.into_spare(link.stream.into_std().unwrap()).unwrap()
    }

    fn kept(&self) -> Qemu {
        kept(&self.host)
    }
}

fn kept(host: &Host) -> Qemu {
    host.qemu.clone().kept_by(env!("CARGO_BIN_EXE_matchlock-test-keeper").into())
}

fn link(control: UnixStream, sessions: u32) -> Link {
    Link { stream: tokio::net::UnixStream::from_std(control).unwrap(), mux: Mux::to_restored(sessions) }
}

async fn become_sandbox(_pid: i32, control: UnixStream) -> io::Result<Link> {
    let mut link = link(control, limits::WARMING_SESSIONS);
    link.have(&Request::Start(Box::new(Start { privileged: true, ..start() }))).await.map(|()| link)
}

#[tokio::test]
#[ignore = "run by the next test as a process of its own, which is then killed"]
async fn maker() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let spare = saved(&folder).await.spare(&folder).await;
    let (pid, parts) = spare.into_parts();
    let parts = parts.each_ref().map(AsFd::as_fd);
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    ancillary.push(SendAncillaryMessage::ScmRights(&parts));
    sendmsg(io::stdin(), &[IoSlice::new(&pid.to_ne_bytes())], &mut ancillary, SendFlags::empty()).unwrap();
    // It still has them when it is killed.
    std::future::pending::<()>().await;
}

fn receive(socket: &UnixStream) -> (i32, [OwnedFd; 5]) {
    let mut pid = [0; 4];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    recvmsg(socket, &mut [IoSliceMut::new(&mut pid)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let parts = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(parts) => parts.collect(),
        _ => Vec::new(),
    });
    (i32::from_ne_bytes(pid), parts.collect::<Vec<_>>().try_into().unwrap())
}

fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Does the process have this file open?
fn has_open(pid: i32, file: &Path) -> bool {
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.any(|entry| fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == file))
}

#[tokio::test]
async fn a_guest_goes_on_for_another_process_after_its_makers_death_and_on_other_disks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (ours, makers) = UnixStream::pair().unwrap();
    let mut maker = Command::new(std::env::current_exe().unwrap())
        .args(["spare::maker", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdin(OwnedFd::from(makers))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (pid, parts) = tokio::task::spawn_blocking(move || receive(&ours)).await.unwrap();
    maker.kill().unwrap();
    maker.wait().unwrap();
    let spare = Spare::from_parts(pid, parts).unwrap();
    assert_eq!(spare.pid(), pid);

    let said = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&said);
    let console = ConsoleLog::new(move |bytes| log.lock().unwrap().extend_from_slice(bytes));
    let [a, b] = ["new-a", "new-b"].map(|name| file(&folder.join(name), name));
    let [old_a, old_b] = ["old-a", "old-b"].map(|name| folder.join(name));
    assert!(has_open(pid, &old_a) && has_open(pid, &old_b));
    let replacement = Disk::scratch(a.clone());
    let adopted = adopt(spare, Some(console), &[(2, &replacement)], DEADLINE, become_sandbox).await;
    let (mut running, mut link) = adopted.unwrap();
    running.replace_disk(3, &Disk::readonly(b.clone())).await.unwrap();
    assert!(has_open(pid, &a) && has_open(pid, &b));
    assert!(!has_open(pid, &old_a) && !has_open(pid, &old_b), "the old files are still open");

    let script = "PATH=/bin; busybox --install -s /bin; \
        for d in vdc vdd; do mknod /$d b $(cat /sys/block/$d/dev | tr : ' '); \
        echo $d $(head -c 5 /$d) $(cat /sys/block/$d/size); done; \
        printf written | dd of=/vdc bs=512 seek=1 conv=notrunc 2>/dev/null; sync; \
        printf no | dd of=/vdd conv=fsync 2>/dev/null || echo read-only; mknod /kmsg c 1 11; echo '<1>said by the guest' > /kmsg";
    let output = link.output_of(&["/bin/busybox", "sh", "-c", script]).await;
    assert_eq!(output, "vdc new-a 2147483648\nvdd new-b 2147483648\nread-only\n");
    let mut written = [0; 7];
    File::open(&a).unwrap().read_exact_at(&mut written, 512).unwrap();
    assert_eq!(&written, b"written");

    link.ask(&Request::PowerOff { grace_ms: 0 }).await.unwrap();
    let exit = running.exited().await.unwrap();
    assert_eq!(exit.process, ProcessEnd::Code(0), "{exit}");
    assert!(!exists(pid));
    assert!(exit.console.contains("said by the guest"), "{exit:?}");
    assert_eq!(String::from_utf8_lossy(&said.lock().unwrap()), exit.console);
}

#[tokio::test]
async fn a_spare_ends_with_its_owner_with_its_keeper_and_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let saved = saved(folder.path()).await;
    let own = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let killed = ProcessEnd::Signal(Signal::KILL.as_raw());

    let spare = saved.spare(&own("told")).await;
    let pid = spare.pid();
    spare.end().await;
    assert!(!exists(pid));

    let spare = saved.spare(&own("killed")).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), spare.ended()).await.is_err());
    kill_process(Pid::from_raw(spare.pid()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(spare.ended().await.process, killed);
    let (pid, parts) = spare.into_parts();
    assert!(Spare::from_parts(pid, parts).is_err(), "it has ended");

    let spare = saved.spare(&own("dropped parts")).await;
    let (_, [lifeline, control, ..]) = spare.into_parts();
    drop(lifeline);
    // The link ends when the machine does.
    let mut control = tokio::net::UnixStream::from_std(control.into()).unwrap();
    let mut nothing = Vec::new();
    tokio::time::timeout(DEADLINE, control.read_to_end(&mut nothing)).await.unwrap().unwrap();

    let (running, _link) = saved.restored(&saved.kept(), &own("keeper")).await;
    kill_process(Pid::from_raw(parent_of(running.pid())).unwrap(), Signal::KILL).unwrap();
    assert_eq!(running.exited().await.unwrap().process, killed);

    let (running, _link) = saved.restored(&saved.kept(), &own("dropped")).await;
    let pid = running.pid();
    drop(running);
    assert!(!exists(pid));

    let (running, link) = saved.restored(&saved.host.qemu, &own("a child")).await;
    let pid = running.pid();
    let refused = running.into_spare(link.stream.into_std().unwrap()).unwrap_err();
    assert_eq!(refused.to_string(), "a machine without a keeper cannot change hands");
    assert!(!exists(pid));
}

#[tokio::test]
async fn a_machine_that_does_not_start_says_the_same_with_a_keeper() {
    let mut host = host(Board::Microvm);
    host.machine.kernel = "/nowhere/kernel".into();
    let mut said = Vec::new();
    for qemu in [host.qemu.clone(), kept(&host)] {
        let outcome = boot(&qemu, &host.machine, TCG, Deadlines::default(), greeted).await;
        let Err(BootError::Ended(exit)) = outcome else { panic!("{outcome:?}") };
        said.push(exit);
    }
    assert_eq!(said[0], said[1]);
    assert!(said[0].errors.contains("/nowhere/kernel"), "{}", said[0]);
}
