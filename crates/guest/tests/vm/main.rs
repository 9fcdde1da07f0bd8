//! The guest where it lives: as PID 1 of a machine, on a real image and a real writable disk. Each boot takes two to three
//! seconds under emulation, so a test asks many questions of one machine.
//!
//! Needs `qemu-system-x86`, `e2fsprogs`, `erofs-utils` and `busybox-static`, and once the distribution's package archive
//! for a kernel.

use std::{
    fs,
    io::Write,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use matchlock_vmm::{Disk, upper};
use matchlock_wire::{Channel, DiskMount, Event, Exec, ExitKind, Note, Request, RootDisks, Start, Stdio, TerminalSize};

use machine::{Image, PATIENCE, Vm, cache, distribution};

mod machine;
mod warm;

/// Is an ext4 file system sound, and what does it say of itself?
fn e2fsck(disk: &Path) -> (bool, String) {
    let header = Command::new("/sbin/dumpe2fs").arg("-h").arg(disk).output().expect("install the package e2fsprogs");
    let header = String::from_utf8_lossy(&header.stdout);
    let state = header.lines().find_map(|line| line.strip_prefix("Filesystem state:")).expect("a state").trim();
    let check = Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(disk).output().expect("e2fsck runs");
    (check.status.success(), state.to_owned())
}

/// A file on an ext4 file system.
fn file_on(disk: &Path, path: &str) -> String {
    let cat = Command::new("/sbin/debugfs").args(["-R", &format!("cat {path}")]).arg(disk).output();
    String::from_utf8(cat.expect("install the package e2fsprogs").stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_what_its_image_and_its_start_say() {
    let mut vm = Vm::boot(&distribution(), &[]).await;
    let early = vm.exec(&["true"]).notes;
    assert!(matches!(&early[..], [Note::Failed(failure)] if failure.message.contains("not been started")), "{early:?}");
    vm.start(|_| ());

    names_are_taken(&mut vm);
    the_root_is_the_images_alone(&mut vm);
    commands_are_confined(&mut vm);
    a_user_gets_a_terminal(&mut vm);
    let bytes = 20 << 20;
    assert_eq!(echoed(&mut vm, bytes), bytes);

    let left = vm.power_off(Duration::from_secs(5)).await;
    assert_eq!(e2fsck(&left.writable), (true, "clean".to_owned()));
}

fn names_are_taken(vm: &mut Vm) {
    assert_eq!(vm.shell("hostname; cat /etc/hostname"), "box\nbox\n");
    assert_eq!(
        vm.shell("cat /etc/hosts"),
        "127.0.0.1 localhost localhost.localdomain box\n10.0.0.7 db\n\
         ::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
    );
    assert_eq!(vm.shell("cat /etc/resolv.conf"), "nameserver 1.1.1.1\nnameserver fd00::53\n");
    assert_eq!(vm.shell("stat -c '%a %F' /etc/hosts /etc/resolv.conf"), "644 regular file\n644 regular file\n");
    assert_eq!(vm.shell("id; pwd; echo $HOME $TERM"), "uid=0(root) gid=0(root)\n/\n/root linux\n");
    let host = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let guest: u64 = vm.shell("date +%s").trim().parse().expect("a number");
    assert!(guest.abs_diff(host) <= 5, "the clock says {guest} instead of {host}");
    assert_eq!(vm.shell("for ip in 127.0.0.1 ::1; do ping -c 1 -W 5 $ip | grep -c '64 bytes'; done"), "1\n1\n");
}

fn the_root_is_the_images_alone(vm: &mut Vm) {
    assert_eq!(vm.shell("cat /tmp/kept /run/kept; touch /tmp/new"), "from the image\nfrom the image\n");
    for hidden in ["/lower", "/upper", "/merged", "/modules", "/init", "/../init", "/proc/1/root/init"] {
        assert_eq!(vm.shell(&format!("ls {hidden} > /dev/null 2>&1 || echo hidden")), "hidden\n", "{hidden}");
    }
    assert_eq!(
        vm.shell("cut -d ' ' -f 5 /proc/self/mountinfo | sort | tr '\\n' ' '"),
        "/ /dev /dev/mqueue /dev/pts /dev/shm /etc/hosts /proc /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys \
         /sys/fs/cgroup "
    );
    assert_eq!(vm.shell("stat -c %d / /bin /etc/hostname /bin/busybox | sort -u | wc -l"), "1\n", "one file system");
    assert_eq!(vm.shell("mv /folder /renamed && ls /renamed"), "inside\n", "a folder of the image can be renamed");
    assert_eq!(vm.shell("stat -c %a /dev/shm /dev/mqueue"), "1777\n1777\n");
    assert_eq!(vm.shell("echo via > /dev/stdout; cat /dev/fd/0 < /tmp/kept"), "via\nfrom the image\n");
}

fn commands_are_confined(vm: &mut Vm) {
    let status = vm.shell("cat /proc/self/status");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t000001ffff94ffff", "CapEff:\t000001ffff94ffff"] {
        assert!(status.lines().any(|found| found == line), "{line} is not in {status}");
    }
    assert!(vm.shell("mount -t tmpfs none /tmp").contains("ermission denied"), "mounting takes a privileged sandbox");
    // What the kernel runs by itself has all rights: nobody may choose it.
    for setting in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/sys/kernel/uevent_seqnum",
        "/proc/sysrq-trigger",
    ] {
        let said = vm.shell(&format!("echo x > {setting}"));
        assert!(said.contains("ead-only file system"), "{setting}: {said}");
    }
}

fn a_user_gets_a_terminal(vm: &mut Vm) {
    let exec = Exec {
        argv: ["sh", "-c", "id; tty; stty size; pwd; echo again > /dev/tty; echo $HOME"].map(Vec::from).to_vec(),
        user: "app".to_owned(),
        cwd: "/srv/app".to_owned(),
        create_cwd: true,
        stdio: Stdio::Terminal(TerminalSize { rows: 33, cols: 101 }),
        ..Exec::default()
    };
    assert_eq!(
        vm.ask(&Request::Exec(exec)).output,
        "uid=1000(app) gid=1001(app) groups=10(wheel)\r\n/dev/pts/0\r\n33 101\r\n/srv/app\r\nagain\r\n/home/app\r\n"
    );
}

/// How many of `count` bytes come back from `cat`.
fn echoed(vm: &mut Vm, count: usize) -> usize {
    let exec = Exec { argv: vec![b"cat".to_vec()], stdio: Stdio::Pipes, ..Exec::default() };
    let id = vm.mux.open(&Request::Exec(exec)).expect("a small request");
    let (chunk, mut left, mut back) = (vec![b'x'; 64 * 1024], count, 0);
    loop {
        left -= vm.mux.send(id, Channel::Input, &chunk[..chunk.len().min(left)]);
        if left == 0 {
            vm.mux.eof(id, Channel::Input);
        }
        match vm.next().expect("the machine runs") {
            Event::Data(_, channel, bytes) => {
                back += bytes.len();
                vm.mux.grant(id, channel, u32::try_from(bytes.len()).expect("a small frame"));
            }
            Event::Ended(of) if of == id => return back,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_file_runs() {
    let image = Image::new();
    image.busybox("ls");
    let mut vm = Vm::boot(&image, &[]).await;
    vm.start(|_| ());
    let story = vm.exec(&["/ls", "-A", "/", "/etc", "/tmp"]);
    let expected = "/:\ndev\netc\nls\nproc\nrun\nsys\ntmp\n\n/etc:\nhostname\nhosts\nresolv.conf\n\n/tmp:\n";
    assert_eq!(story.output, expected, "{story:?}");
    assert!(vm.exec(&["/ls", "-ld", "/tmp"]).output.starts_with("drwxrwxrwt"));
    let user = Exec { argv: vec![b"/ls".to_vec()], user: "app".to_owned(), ..Exec::default() };
    let story = vm.ask(&Request::Exec(user));
    assert!(matches!(&story.notes[..], [Note::Failed(failure)] if failure.message.contains("app")), "{story:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_sandbox_keeps_everything_but_more_than_its_share_of_the_processors() {
    let mut vm = Vm::boot(&distribution(), &[]).await;
    vm.start(|start| {
        start.privileged = true;
        start.cpu_quota = Some(80_000);
    });
    assert_eq!(vm.shell("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"), "NoNewPrivs:\t0\nSeccomp:\t0\n");
    assert_eq!(
        vm.shell("echo core > /proc/sys/kernel/core_pattern && echo 1 > /sys/kernel/profiling; echo written"),
        "written\n"
    );
    assert_eq!(vm.shell("mount -t tmpfs none /tmp && grep -c ' /tmp tmpfs' /proc/mounts"), "1\n");
    assert_eq!(vm.shell("cat /proc/self/cgroup /sys/fs/cgroup/sandbox/cpu.max"), "0::/sandbox\n80000 100000\n");
    assert_eq!(vm.shell("cat /proc/1/cgroup"), "0::/\n", "the agent itself is not slowed down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_processors_can_be_read_and_not_be_lifted() {
    let mut vm = Vm::boot(&distribution(), &[]).await;
    vm.start(|start| start.cpu_quota = Some(80_000));
    assert_eq!(vm.shell("cat /proc/self/cgroup /sys/fs/cgroup/sandbox/cpu.max"), "0::/sandbox\n80000 100000\n");
    for attempt in ["echo max > sandbox/cpu.max", "echo 0 > cgroup.procs", "mount -o remount,rw /sys/fs/cgroup"] {
        assert_eq!(
            vm.shell(&format!("cd /sys/fs/cgroup; {attempt} > /dev/null || echo refused; cat sandbox/cpu.max"))
                .lines()
                .skip_while(|line| *line != "refused")
                .collect::<Vec<_>>(),
            ["refused", "80000 100000"],
            "{attempt}"
        );
    }
    vm.power_off(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readonly_disk_that_was_not_left_clean_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.ext4");
    fs::File::create(&data).and_then(|file| file.set_len(16 << 20)).expect("a disk");
    // A journal, and the mark that it is to be written back.
    for (program, words) in
        [("mke2fs", &["-q", "-t", "ext4"][..]), ("debugfs", &["-w", "-R", "feature needs_recovery"])]
    {
        let made = Command::new(format!("/sbin/{program}")).args(words).arg(&data).output();
        assert!(made.expect("install the package e2fsprogs").status.success(), "{program}");
    }
    let mut vm = Vm::boot_with(&distribution(), vec![Disk::readonly(data)]).await;
    vm.start(|start| start.disks = vec![DiskMount { device: 2, mount: "/data".to_owned(), readonly: true }]);
    assert_eq!(vm.shell("ls /data; grep -c ' /data ext4 ro,.*norecovery' /proc/mounts"), "lost+found\n1\n");
    vm.power_off(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn powering_off_gives_time_to_those_who_take_it_and_leaves_clean_disks() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.ext4");
    upper::create(&cache().uppers(), 16, &data).expect("install the package e2fsprogs");
    let mut vm = Vm::boot(&distribution(), &[&data]).await;
    vm.start(|start| start.disks = vec![DiskMount { device: 2, mount: "/new/data".to_owned(), readonly: false }]);
    // One that tidies up, one that will not hear, and one that is being watched.
    vm.shell("(trap 'echo tidy > /new/data/tidy; exit' TERM; while :; do sleep 0.1; done) > /dev/null 2>&1 &");
    vm.shell("(trap '' TERM; while :; do sleep 0.1; done) > /dev/null 2>&1 &");
    let argv = ["sh", "-c", "while :; do sleep 0.1; done"].map(Vec::from).to_vec();
    vm.mux.open(&Request::Exec(Exec { argv, ..Exec::default() })).expect("a small request");
    vm.shell("seq 1 10000 > /tmp/numbers");

    let begin = Instant::now();
    let left = vm.power_off(Duration::from_secs(2)).await;
    assert!(begin.elapsed() >= Duration::from_secs(2), "the deaf one got its time");
    assert!(left.notes.contains(&Note::Exited(ExitKind::Signal(15))), "{:?}", left.notes);
    assert_eq!(e2fsck(&left.writable), (true, "clean".to_owned()));
    assert_eq!(e2fsck(&data), (true, "clean".to_owned()));
    assert_eq!(file_on(&data, "/tidy"), "tidy\n");
    assert_eq!(file_on(&left.writable, "/upper/tmp/numbers").lines().count(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_carried_out_says_why() {
    let mut vm = Vm::boot(&distribution(), &[]).await;
    let start = Start {
        clock_ns: 1_800_000_000_000_000_000,
        entropy: [0; 32],
        hostname: "box".to_owned(),
        network: None,
        authority: None,
        dns_servers: Vec::new(),
        add_hosts: Vec::new(),
        root: RootDisks { lower: 7, upper: 1 },
        disks: Vec::new(),
        cpu_quota: None,
        privileged: false,
        timings: false,
    };
    let story = vm.ask(&Request::Start(Box::new(start)));
    let [Note::Failed(failure)] = &story.notes[..] else { panic!("{story:?}") };
    assert_eq!(failure.message, "mount /dev/vdh at /lower: no such file or folder");
    vm.power_off(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_breaks_the_protocol_ends_the_machine() {
    let mut vm = Vm::boot(&distribution(), &[]).await;
    vm.socket.write_all(&[0xff; 64]).expect("the machine listens");
    assert_eq!(vm.next(), None);
    let exit = tokio::time::timeout(PATIENCE, vm.running.exited()).await.expect("it ends").expect("it is ours");
    assert!(exit.console.contains("matchlock-guest: fatal: malformed frame header"), "{exit:?}");
}
