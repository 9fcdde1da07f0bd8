//! Starting sandboxes, and commands in them.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use matchlock_sandbox::{
    Host, Link, LinkError,
    vmm::{Booted, Deadlines, Disk, Machine, Policy, boot, upper},
};

use super::{
    Row,
    sample::{Home, IMAGE, Samples},
};

/// Memory of a sandbox where none is asked for, in MiB; the bare machine gets as much.
const MEMORY_MB: u32 = 512;

const TRUE: [&str; 5] = ["run", "--image", IMAGE, "--", "true"];

/// A whole `run … true` against the bare machine until its guest answers.
pub(super) fn cold(home: &Home, runs: usize) -> Result<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bare = runtime.block_on(Bare::new(home))?;
    let (mut floor, mut whole) = (Vec::new(), Vec::new());
    // The first of each warms caches.
    runtime.block_on(bare.answers())?;
    home.time(&TRUE)?;
    for _ in 0..runs {
        floor.push(runtime.block_on(bare.answers())?);
        whole.push(home.time(&TRUE)?);
    }
    let (floor, whole) = (Samples::new(floor)?, Samples::new(whole)?);
    let ratio = whole.percentile(50).as_secs_f64() / floor.percentile(50).as_secs_f64();
    Ok(Row {
        what: "cold start: `run --image debian -- true`, whole process, against the same kernel and QEMU command line \
               until its guest answers"
            .to_owned(),
        goal: "≤ 1.25×".to_owned(),
        measured: format!("**{ratio:.2}×** ({}; bare {}; {runs} runs each)", whole.shown(), floor.shown()),
    })
}

/// The same machine as a sandbox's, started by hand.
struct Bare {
    machine: Machine,
    vmm: matchlock_sandbox::vmm::qemu::Qemu,
}

impl Bare {
    async fn new(home: &Home) -> Result<Self> {
        let host = Host::new(home.path(), None);
        let guest = host.prepare().await?;
        let scratch = home.path().join("bare.ext4");
        if !scratch.exists() {
            upper::create(&host.cache.uppers(), 5120, &scratch)?;
        }
        let image = std::fs::read_dir(host.cache.blobs())?.next().context("an image")??.path();
        let machine = Machine {
            vcpus: 1,
            memory_mb: MEMORY_MB,
            kernel: guest.kernel,
            initramfs: guest.initramfs,
            cmdline: Vec::new(),
            disks: vec![Disk::readonly(image), Disk::scratch(scratch)],
            console_log: None,
        };
        Ok(Self { machine, vmm: guest.vmm })
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

/// `exec … true` in a sandbox that runs.
pub(super) fn exec(home: &Home, runs: usize) -> Result<Row> {
    let id = home.succeed(&["run", "--detach", "--image", IMAGE])?;
    let id = id.trim();
    let times = (0..=runs).map(|_| home.time(&["exec", id, "true"])).collect::<Result<Vec<_>>>();
    home.succeed(&["kill", id])?;
    home.succeed(&["rm", id])?;
    let samples = Samples::new(times?.split_off(1))?;
    Ok(Row {
        what: "`exec <id> true` in a running sandbox, whole process".to_owned(),
        goal: "p50 ≤ 30 ms".to_owned(),
        measured: format!("**{}** ({runs} runs)", samples.shown()),
    })
}

/// Cold starts one after another.
pub(super) fn in_a_row(home: &Home, starts: usize) -> Row {
    let succeeded = (0..starts).filter(|_| home.time(&TRUE).is_ok()).count();
    Row {
        what: format!("{starts} cold starts one after another"),
        goal: format!("{starts} exit 0"),
        measured: format!("**{succeeded}** exit 0"),
    }
}

/// Sandboxes started at the same moment.
pub(super) fn at_once(home: &Home, starts: usize) -> Result<Row> {
    let begin = Instant::now();
    let children: Vec<_> = (0..starts).map(|_| home.command(&TRUE).spawn()).collect::<Result<_, _>>()?;
    let mut succeeded = 0;
    for mut child in children {
        succeeded += usize::from(child.wait()?.success());
    }
    ensure!(home.succeed(&["list"])?.lines().count() == 1, "something is left of {starts} sandboxes");
    Ok(Row {
        what: format!("{starts} sandboxes started at once"),
        goal: format!("{starts} exit 0"),
        measured: format!("**{succeeded}** exit 0, all within {} ms", begin.elapsed().as_millis()),
    })
}
