//! Starts, against the least that a restore can take, against a boot, and the very first one.

use std::{fs, os::unix::net::UnixStream, path::PathBuf, time::Duration, time::Instant};

use anyhow::Result;
use matchlock_sandbox::{
    GuestFiles, Host, Link, LinkError,
    vmm::{Booted, Deadlines, Disk, Machine, Policy, boot, qemu::Qemu, upper},
};
use matchlock_testkit::{LoopbackRegistry, Options, images, run, tool};
use tokio::runtime::Runtime;

use super::{
    floor::Floor,
    home::{COLD_TRUE, Home, TRUE},
    row::{Row, ratio, samples, shown},
};

/// Memory of a sandbox where none is asked for, in MiB; the bare machine gets as much.
const MEMORY_MB: u32 = 512;

const START: &str = "`run --image debian -- true`, whole process";

const FLOOR: &str = "a bare restore of a minimal guest that runs the same program from the same image";

/// A whole `run … true` against the floor, one after the other.
pub(super) fn restored(home: &Home, floor: &Floor, runs: usize) -> Result<Vec<Row>> {
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    // The first of each warms caches, or saves a guest.
    floor.run()?;
    home.warm_up()?;
    for _ in 0..runs {
        bare.push(floor.run()?);
        whole.push(home.time(&TRUE)?);
    }
    let (bare, whole) = (samples(bare)?, samples(whole)?);
    let details = format!("{}; bare {}; {runs} runs each", shown(&whole), shown(&bare));
    let spread = whole.percentile(99).as_secs_f64() / whole.percentile(50).as_secs_f64();
    Ok(vec![
        Row::at_most(format!("start: {START}, against {FLOOR}"), 1.3, ratio(50, &whole, &bare), &details),
        Row::at_most("its p99 against its p50", 1.5, spread, &format!("{runs} runs")),
    ])
}

/// A start with a sealed network and a secret, with an open one as it is by default, and without any.
pub(super) fn connected(home: &Home, runs: usize) -> Result<Vec<Row>> {
    let with = |flags: &[&str]| home.time(&[&TRUE[..3], flags, &TRUE[3..]].concat());
    let (mut sealed, mut open, mut none) = (Vec::new(), Vec::new(), Vec::new());
    home.warm_up()?;
    with(&["--no-network"])?; // its guest is another one
    for _ in 0..runs {
        none.push(with(&["--no-network"])?);
        open.push(with(&[])?);
        sealed.push(with(&["--allow-host", "x.com", "--secret", "KEY=0123456789abcdef@api.x.com"])?);
    }
    let (sealed, open, none) = (samples(sealed)?, samples(open)?, samples(none)?);
    let details = format!("{}; open {}; none {}; {runs} runs each", shown(&sealed), shown(&open), shown(&none));
    let what = "start with an allow-list and a secret, against the same with `--no-network`";
    Ok(vec![Row::at_most(what, 1.25, ratio(50, &sealed, &none), &details)])
}

/// The same with a spare sandbox waiting, of any image and of this one.
pub(super) fn adopted(home: &Home, floor: &Floor, runs: usize) -> Result<Vec<Row>> {
    let image = ["--image", TRUE[2]];
    let kinds: [(&str, &[&str], f64); 2] =
        [("a spare for any image waiting", &[], 0.5), ("a spare for this image waiting", &image, 0.25)];
    let mut rows = Vec::new();
    for (kind, flags, most) in kinds {
        let what = format!("start with {kind}, against the bare restore");
        // An interrupted measurement may have left one, which has nothing to say otherwise.
        let _ = home.succeed(&["warm", "--stop"]);
        let (mut bare, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            bare.push(floor.run()?);
            // One at a time: what is made after it in place of it would disturb what is measured next.
            home.succeed(&[&["warm", "-d", "--count", "1"], flags].concat())?;
            let took = home.time(&TRUE);
            home.succeed(&["warm", "--stop"])?;
            whole.push(took?);
        }
        let (bare, whole) = (samples(bare)?, samples(whole)?);
        let details = format!("{}; bare {}; {runs} runs each", shown(&whole), shown(&bare));
        rows.push(Row::at_most(what, most, ratio(50, &whole, &bare), &details));
    }
    Ok(rows)
}

/// A start from the kernel against the bare machine until its guest answers, and a start by restore against that.
pub(super) fn cold(home: &Home, files: &GuestFiles, runtime: &Runtime, runs: usize) -> Result<Vec<Row>> {
    let bare = Bare::new(&home.host(), files, home.image()?)?;
    let (mut boots, mut colds, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(bare.answers())?;
    home.time(&COLD_TRUE)?;
    home.warm_up()?;
    for _ in 0..runs {
        boots.push(runtime.block_on(bare.answers())?);
        colds.push(home.time(&COLD_TRUE)?);
        starts.push(home.time(&TRUE)?);
    }
    let (boots, colds, starts) = (samples(boots)?, samples(colds)?, samples(starts)?);
    let details = format!("{}; cold {}; {runs} runs each", shown(&starts), shown(&colds));
    let of_cold = format!("{}; bare {}; {runs} runs each", shown(&colds), shown(&boots));
    let what = "cold start: `run --cold --image debian -- true`, whole process, against the same kernel and QEMU command \
                line until its guest answers";
    Ok(vec![
        Row::at_most("start against its own `--cold`", 0.15, ratio(50, &starts, &colds), &details),
        Row::at_most(what, 1.25, ratio(50, &colds, &boots), &of_cold),
    ])
}

/// The same machine as a sandbox's, started by hand.
struct Bare {
    machine: Machine,
    vmm: Qemu,
}

impl Bare {
    fn new(host: &Host, files: &GuestFiles, image: PathBuf) -> Result<Self> {
        let scratch = host.state.root().with_file_name("bare.ext4");
        if !scratch.exists() {
            upper::create(&host.cache.uppers(), 5120, &scratch)?;
        }
        let machine = Machine {
            vcpus: 1,
            memory_mb: MEMORY_MB,
            kernel: files.kernel.clone(),
            initramfs: files.initramfs.clone(),
            cmdline: Vec::new(),
            disks: vec![Disk::readonly(image), Disk::scratch(scratch)],
            nic: None,
            console_log: None,
        };
        Ok(Self { machine, vmm: files.vmm.clone() })
    }

    async fn answers(&self) -> Result<Duration> {
        let begin = Instant::now();
        let greet = async |_pid: i32, stream: UnixStream| -> Result<Link, LinkError> {
            Link::to_guest(tokio::net::UnixStream::from_std(stream)?).await
        };
        let Booted { running, .. } = boot(&self.vmm, &self.machine, Policy::Auto, Deadlines::default(), greet).await?;
        let took = begin.elapsed();
        running.kill().await?;
        Ok(took)
    }
}

/// The very first `run` of an image, pulled from a registry on loopback into a home with nothing but a kernel: a guest is
/// saved on the way. Against the same that boots instead.
pub(super) fn first(home: &Home, runs: usize) -> Result<Vec<Row>> {
    let registry = LoopbackRegistry::start(Options::default())?;
    let reference = registry.reference("debian");
    let mut push = tool("skopeo", "skopeo")?;
    push.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
    push.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
    run(push.arg(format!("docker-archive:{}", images::debian()?.display())).arg(format!("docker://{reference}")))?;

    let folder = home.path().join("first");
    let once = |flag: &[&str]| -> Result<Duration> {
        let fresh = home.fresh(&folder)?;
        let took = fresh.time(&[&["run"], flag, &["--image", &reference, "--", "true"]].concat())?;
        fs::remove_dir_all(&folder)?;
        Ok(took)
    };
    let (mut restored, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        cold.push(once(&["--cold"])?);
        restored.push(once(&[])?);
    }
    let (restored, cold) = (samples(restored)?, samples(cold)?);
    let details = format!("{}; cold {}; {runs} runs each", shown(&restored), shown(&cold));
    let what = "the first ever `run` of an image: pull, conversion, a guest saved and continued, against pull, conversion \
                and a boot (`--cold`), each in an empty home that has a kernel";
    Ok(vec![Row::at_most(what, 1.15, ratio(50, &restored, &cold), &details)])
}
