//! Spare sandboxes: each taken over by one start that it fits, a stranger to all others by then, and gone with whoever keeps it.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, Output, Running};
use matchlock_tests::{BUSYBOX, DEBIAN, Sandbox, busybox, complaints, debian, templates::says, until};
use rustix::process::Signal;

/// What keeps spares. Dropped, it is ended.
struct Warm<'home> {
    home: &'home Home,
    process: Option<Running>,
}

impl<'home> Warm<'home> {
    /// Keep some, and wait until they are there.
    fn keep(home: &'home Home, flags: &[&str]) -> Result<Self> {
        let mut process = home.matchlock([&["warm"], flags].concat()).spawn()?;
        process.expect_stderr(" ready, ")?;
        Ok(Self { home, process: Some(process) })
    }

    /// Wait until `list` says that so many are ready.
    fn until_ready(&self, ready: &str) -> Result<()> {
        let process = self.process.as_ref().context("it was ended")?;
        until(process, ready, || (shown(self.home).ok()?? == ready).then_some(()))
    }

    fn end(mut self, signal: Signal) -> Result<Output> {
        let process = self.process.take().context("it was ended")?;
        process.signal(signal)?;
        process.wait()
    }
}

impl Drop for Warm<'_> {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // One that goes on, its home finds.
            let _ = process.signal(Signal::TERM).and_then(|()| process.wait());
        }
    }
}

/// How many spares are ready of how many, as `list` has it; `None` if nobody keeps any.
fn shown(home: &Home) -> Result<Option<String>> {
    let list = says(home, &["list"])?;
    let mut lines = list.lines().skip_while(|line| !line.starts_with("SPARES"));
    let Some(_header) = lines.next() else { return Ok(None) };
    let row = lines.next().context("a row")?;
    ensure!(lines.next().is_none(), "{list}");
    Ok(Some(row.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")))
}

fn run(home: &Home, flags: &[&str], image: &str, command: &[&str]) -> Result<Output> {
    home.matchlock([&["run", "--timings", "--image", image], flags, &["--"], command].concat()).run()
}

fn was_a_spare(output: &Output) -> bool {
    output.stderr().contains("spare sandbox found") && !output.stderr().contains("of no use")
}

#[test]
fn a_spare_becomes_a_sandbox_like_any_other() -> Result<()> {
    let home = debian()?;
    let script = "
import os, time

def is_program(pid):
    try:
        return open('/proc/' + pid + '/cmdline').read() != ''
    except (FileNotFoundError, ProcessLookupError):
        # One of the kernel's own has ended since it was listed: ext4lazyinit does, seconds after a mount.
        return False

for name in ('hostname', 'random/boot_id', 'random/uuid'):
    print(open('/proc/sys/kernel/' + name).read().strip())
print(os.getrandom(16).hex(), open('/dev/urandom', 'rb').read(16).hex(), open('/etc/hostname').read(), time.time(), sep='\\n')
print(os.environ.get('WORD'), os.getuid(), os.getcwd(), os.path.exists('/tmp/left'))
print([pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) > 1 and is_program(pid)] == [str(os.getpid())])
open('/tmp/left', 'w')
raise SystemExit(7)
";
    let mut seen = BTreeSet::new();
    for flags in [&["--count", "2"][..], &["--count", "2", "--image", DEBIAN]] {
        let warm = Warm::keep(&home, flags)?;
        ensure!(shown(&home)?.as_deref() == Some("2 of 2"));
        for _ in 0..2 {
            let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let own = ["-e", "WORD=hello", "-u", "1:1", "-w", "/usr", "--cpus", "0.5"];
            let ended = run(&home, &own, DEBIAN, &["python3", "-c", script])?.exits_with(7)?;
            let after = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            ensure!(was_a_spare(&ended), "{ended}");
            let said = ended.stdout();
            let lines: Vec<_> = said.lines().collect();
            ensure!(lines.len() == 10 && lines[5] == lines[0], "{ended}");
            for line in &lines[..5] {
                ensure!(seen.insert((*line).to_owned()), "{line:?} was in another sandbox, too");
            }
            let clock: f64 = lines[7].parse()?;
            ensure!((before - 0.5..after + 0.5).contains(&clock), "{clock} is not between {before} and {after}");
            ensure!(lines[8..] == ["hello 1 /usr False", "True"], "{ended}");
        }
        warm.until_ready("2 of 2")?;
    }
    ensure!(shown(&home)?.is_none());
    Ok(())
}

#[test]
fn no_two_starts_get_one_spare_and_none_that_does_not_fit() -> Result<()> {
    let home = busybox()?;
    let warm = Warm::keep(&home, &[])?;
    let starts: Vec<_> = (0..3)
        .map(|_| home.matchlock(["run", "--timings", "--image", BUSYBOX, "--", "echo", "hello"]).spawn())
        .collect::<Result<_>>()?;
    let ended: Vec<_> = starts.into_iter().map(|run| run.wait()?.success()).collect::<Result<_>>()?;
    let adopted = ended.iter().filter(|output| was_a_spare(output)).count();
    ensure!(adopted == 1, "{adopted} of three starts had the one spare");
    ensure!(ended.iter().all(|output| output.stdout() == "hello\n"));
    drop(warm);

    let warm = Warm::keep(&home, &["--memory", "256"])?;
    for flags in [&[][..], &["--memory", "256", "--privileged"], &["--memory", "256", "--cold"]] {
        let other = run(&home, flags, BUSYBOX, &["true"])?.success()?;
        ensure!(!was_a_spare(&other), "{other}");
    }
    ensure!(shown(&home)?.as_deref() == Some("1 of 1"));
    ensure!(was_a_spare(&run(&home, &["--memory", "256"], BUSYBOX, &["true"])?.success()?));
    drop(warm);

    let _warm = Warm::keep(&home, &["--privileged", "--image", BUSYBOX])?;
    let mount = ["sh", "-c", "mkdir /m && mount -t tmpfs none /m"];
    let privileged = run(&home, &["--privileged"], BUSYBOX, &mount)?.success()?;
    ensure!(was_a_spare(&privileged), "{privileged}");
    Ok(())
}

#[test]
fn what_was_taken_over_outlives_who_kept_it_and_nothing_else_does() -> Result<()> {
    let home = busybox()?;
    let warm = Warm::keep(&home, &["--count", "2"])?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    warm.end(Signal::KILL)?.exits_with(128 + 9)?;
    ensure!(sandbox.sh("echo still here")? == "still here");
    // What the killed one has left is its socket's name, and nobody minds it.
    run(&home, &[], BUSYBOX, &["true"])?.success()?;
    drop(sandbox);
    home.assert_nothing_left()
}

#[test]
fn a_sandbox_that_was_a_spare_ends_with_its_supervisor() -> Result<()> {
    let home = busybox()?;
    let warm = Warm::keep(&home, &["--image", BUSYBOX])?;
    let mut run =
        home.matchlock(["run", "--timings", "--image", BUSYBOX, "--", "sh", "-c", "echo up; sleep 1000"]).spawn()?;
    run.expect_stdout("up\n")?;
    run.signal(Signal::KILL)?;
    run.wait()?.exits_with(128 + 9)?;
    drop(warm);
    says(&home, &["gc"])?;
    says(&home, &["rm", "--stopped"])?;
    home.assert_nothing_left()
}

#[test]
fn spares_end_in_order_and_bad_wishes_are_refused() -> Result<()> {
    let home = busybox()?;
    let interrupted = Warm::keep(&home, &[])?.end(Signal::INT)?.success()?;
    ensure!(complaints(&interrupted) == "1 spare sandbox ready, Ctrl-C to end\n", "{interrupted}");
    home.assert_nothing_left()?;

    let warm = home.matchlock(["warm", "-d", "--count", "2"]).run()?.success()?;
    ensure!(warm.stdout() == "2 spare sandboxes ready\n", "{warm}");
    ensure!(shown(&home)?.as_deref() == Some("2 of 2"));
    ensure!(says(&home, &["warm", "--stop"])? == "Stopped\n");
    home.assert_nothing_left()?;

    let stop = home.matchlock(["warm", "--stop"]).run()?.success()?;
    ensure!(stop.stdout().is_empty() && stop.stderr() == "no spare sandboxes are kept\n", "{stop}");
    for (flags, complaint) in [
        (&["--count", "0"][..], "--count must be between 1 and 100, got 0"),
        (&["--count", "101"], "--count must be between 1 and 100, got 101"),
        (&["--image", "!"], "parse image reference"),
        (&["--stop", "-d"], "cannot be used with"),
    ] {
        let refused = home.matchlock([&["warm"], flags].concat()).run()?;
        ensure!(refused.code() != 0 && refused.stderr().contains(complaint), "{refused}");
    }
    home.assert_nothing_left()
}
