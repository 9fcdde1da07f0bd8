//! Every verb on sandboxes that run, have ended, or never came up.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, Running, tool};
use matchlock_tests::{BUSYBOX, Process, Sandbox, busybox, logged, machine_of, query, until};
use rustix::process::Signal;
use serde_json::Value;

/// What a command says on standard output, if it succeeds.
fn says(home: &Home, arguments: &[&str]) -> Result<String> {
    Ok(home.matchlock(arguments).run()?.success()?.stdout())
}

/// What a command complains about, if it fails with `code` and says nothing else.
fn complains(home: &Home, code: i32, arguments: &[&str]) -> Result<String> {
    let output = home.matchlock(arguments).run()?.exits_with(code)?;
    ensure!(output.stdout.is_empty(), "{output}");
    let errors = output.stderr();
    let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("using software emulation")).collect();
    ensure!(lines.len() == 1, "one line was expected: {output}");
    Ok(lines[0].to_owned())
}

fn json(home: &Home, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&says(home, arguments)?)?)
}

fn supervisor_of(home: &Home, id: &str) -> Result<u32> {
    Ok(json(home, &["get", id])?["pid"].as_u64().context("a pid")?.try_into()?)
}

/// A `log -f` that has shown what there is so far.
fn follow(home: &Home, id: &str) -> Result<Running> {
    home.matchlock(["log", "-f", id]).spawn()
}

#[test]
fn the_life_of_a_sandbox_in_the_background() -> Result<()> {
    let home = busybox()?;
    let script =
        "echo to the log; echo and errors >&2; until test -e /go; do sleep 0.1; done; echo the last words; sleep 1000";
    let sandbox = Sandbox::start(&home, &["--image", BUSYBOX, "--", "sh", "-c", script])?;
    let id = sandbox.id();

    // It is ready: no waiting before the first exec.
    ensure!(says(&home, &["exec", id, "--", "cat", "/proc/sys/kernel/hostname"])? == format!("{id}\n"));

    let list = says(&home, &["list"])?;
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    ensure!(rows[0] == ["ID", "STATUS", "IMAGE", "CREATED", "PID"], "{list}");
    let pid = supervisor_of(&home, id)?;
    ensure!(rows.len() == 2 && rows[1][..3] == [id, "running", BUSYBOX] && rows[1][5] == pid.to_string(), "{list}");
    ensure!(says(&home, &["ls"])? == list && says(&home, &["list", "--running"])? == list);
    let listed = json(&home, &["list", "--json"])?;
    ensure!(listed[0] == json(&home, &["get", id])? && listed[0]["status"] == "running", "{listed:#}");

    everything_is_told(&home, id)?;
    queries_of_the_documentation_work(&home, id)?;

    let ends = "VM is running";
    ensure!(complains(&home, 1, &["rm", id])?.contains(ends));
    ensure!(says(&home, &["rm", "--stopped"])?.is_empty() && says(&home, &["prune"])? == "Pruned 0 VMs\n");
    ensure!(says(&home, &["gc"])? == format!("{id}: skipped (VM is running)\nReconciled 1 VMs\n"));
    home.matchlock(["gc", id]).run()?.exits_with(1)?;

    let logs = [follow(&home, id)?, follow(&home, id)?];
    let supervisor = Process::open(pid)?;
    let machine = machine_of(pid).context("a virtual machine")?;
    says(&home, &["exec", id, "--", "sh", "-c", ": >/go"])?;
    until(&logs[0], "the last words", || logged(&home).contains("the last words").then_some(()))?;
    ensure!(says(&home, &["kill", id])? == format!("Killed {id}\n"));
    ensure!(supervisor.has_ended()? && machine.has_ended()?, "kill came back too early");
    for log in logs {
        let shown = log.wait()?.success()?.stdout();
        ensure!(["to the log", "and errors", "the last words"].iter().all(|words| shown.contains(words)), "{shown}");
        ensure!(shown == says(&home, &["log", id])?);
    }

    ensure!(complains(&home, 1, &["kill", id])?.ends_with(&format!("VM {id} is not running (status: stopped)")));
    ensure!(
        complains(&home, 1, &["exec", id, "--", "true"])? == format!("exec: VM {id} is not running (status: stopped)")
    );
    let list = says(&home, &["list"])?;
    ensure!(list.contains("stopped") && list.trim_end().ends_with("  -"), "{list}");
    ensure!(says(&home, &["list", "--running"])?.lines().count() == 1);
    let inspected = json(&home, &["inspect", id])?;
    ensure!(
        inspected["lifecycle"]["phase"] == "cleaned" && inspected["held"] == Value::Array(Vec::new()),
        "{inspected:#}"
    );
    // Following what has ended shows it and comes back.
    ensure!(says(&home, &["log", "--follow", id])?.contains("the last words"));

    ensure!(says(&home, &["remove", id])? == format!("Removed {id}\n"));
    ensure!(says(&home, &["list"])?.lines().count() == 1);
    for verb in ["get", "inspect", "log", "exec", "kill", "rm", "gc"] {
        let arguments = if verb == "exec" { vec![verb, id, "--", "true"] } else { vec![verb, id] };
        ensure!(complains(&home, 1, &arguments)?.contains("not found"), "{verb}");
    }
    home.assert_nothing_left()
}

/// `inspect` shows the record, each step so far, and what is held.
fn everything_is_told(home: &Home, id: &str) -> Result<()> {
    let inspected = json(home, &["inspect", id])?;
    ensure!(inspected["vm"] == json(home, &["get", id])?);
    let history = inspected["history"].as_array().context("a list")?;
    let phases: Vec<_> = history.iter().filter_map(|record| record["phase"].as_str()).collect();
    ensure!(phases == ["creating", "created", "starting", "running"], "{phases:?}");
    let versions: Vec<_> = history.iter().filter_map(|record| record["version"].as_u64()).collect();
    ensure!(versions == [1, 2, 3, 4] && inspected["lifecycle"] == history[3], "{inspected:#}");
    ensure!(inspected["lifecycle"]["vm_id"] == id && inspected["vm"]["config"]["resources"]["memory_mb"] == 512);
    let held: Vec<_> = inspected["held"].as_array().context("a list")?.iter().filter_map(Value::as_str).collect();
    ensure!(held.first().is_some_and(|held| held.starts_with("process_end:")), "{held:?}");
    ensure!(held[1..] == ["file_remove:control.sock", "file_remove:exec.sock", "file_remove:upper.ext4"], "{held:?}");
    ensure!(json(home, &["stat", id])? == inspected);
    Ok(())
}

/// What people ask the database by hand.
fn queries_of_the_documentation_work(home: &Home, id: &str) -> Result<()> {
    let pid = supervisor_of(home, id)?;
    ensure!(query(home, "SELECT id, status, pid FROM vms")? == format!("{id}|running|{pid}"));
    ensure!(query(home, "SELECT vm_id, octet, subnet FROM subnet_allocations")?.is_empty());
    let history = "SELECT version, phase, last_error FROM vm_lifecycle WHERE vm_id = '{id}' ORDER BY version";
    let history = query(home, &history.replace("{id}", id))?;
    ensure!(history == "1|creating|\n2|created|\n3|starting|\n4|running|", "{history}");
    ensure!(query(home, "PRAGMA wal_checkpoint(TRUNCATE)")?.starts_with("0|"));
    let unused = "DELETE FROM subnet_allocations WHERE vm_id NOT IN (SELECT id FROM vms WHERE status = 'running')";
    ensure!(query(home, unused)?.is_empty());
    // The supervisor goes on with the database that was emptied into its main file.
    ensure!(says(home, &["exec", id, "--", "echo", "fine"])? == "fine\n");
    let images =
        tool("sqlite3", "sqlite3")?.arg(home.cache().image_database()).arg("SELECT scope, tag FROM images").output()?;
    ensure!(String::from_utf8_lossy(&images.stdout).contains(BUSYBOX), "{images:?}");
    Ok(())
}

#[test]
fn all_at_once() -> Result<()> {
    let home = busybox()?;
    let start = || home.matchlock(["run", "-d", "--image", BUSYBOX, "--", "sleep", "1000"]).spawn();
    let both = [start()?, start()?];
    let mut ids = Vec::new();
    for output in both {
        ids.push(output.wait()?.success()?.stdout().trim_end().to_owned());
    }
    // One that is none, and one that is gone, keep nobody from the other.
    let each = |verb: &str| home.matchlock([verb, "nope", "vm-00000000", &ids[0]]).run()?.exits_with(1);
    let killed = each("kill")?;
    ensure!(killed.stdout() == format!("Killed {}\n", ids[0]) && killed.stderr().lines().count() == 2, "{killed}");
    ensure!(says(&home, &["kill", "--all"])? == format!("Killed {}\n", ids[1]));
    ensure!(says(&home, &["kill", "--all"])?.is_empty());
    let removed = each("rm")?;
    ensure!(removed.stdout() == format!("Removed {}\n", ids[0]) && removed.stderr().lines().count() == 2, "{removed}");
    ensure!(says(&home, &["rm", "--stopped"])? == format!("Removed {}\n", ids[1]));

    let kept = Sandbox::idle(&home, BUSYBOX, &[])?;
    let machine = machine_of(supervisor_of(&home, kept.id())?).context("a virtual machine")?;
    let reconciled = says(&home, &["gc", "--force-running"])?;
    ensure!(reconciled.ends_with("Reconciled 1 VMs\n") && machine.has_ended()?, "{reconciled}");
    // Tests share templates, and so one may tidy up after another.
    let pruned = says(&home, &["prune"])?;
    ensure!(pruned.starts_with(&format!("Pruned {}\nPruned 1 VMs\n", kept.id())), "{pruned}");
    home.assert_nothing_left()
}

#[test]
fn what_does_not_come_up_in_the_background_says_why() -> Result<()> {
    let home = busybox()?;
    let start = |command: &str| -> Result<(i32, String)> {
        let output = home.matchlock(["run", "-d", "--image", BUSYBOX, "--", command]).run()?;
        ensure!(output.stdout.is_empty(), "{output}");
        Ok((output.code(), output.stderr()))
    };
    let (code, line) = start("/no/such/program")?;
    ensure!(code == 127 && line.contains("/no/such/program"), "{code} {line}");
    let (code, line) = start("/etc/passwd")?;
    ensure!(code == 126 && line.contains("/etc/passwd"), "{code} {line}");
    let line = complains(&home, 1, &["run", "-d", "-it", "--image", BUSYBOX])?;
    ensure!(line.contains("--detach cannot be combined"), "{line}");
    let line = complains(&home, 1, &["run", "-d", "--image", "localhost:1/no/such", "--", "true"])?;
    ensure!(line.starts_with("building rootfs: ") && line.contains("localhost:1"), "{line}");
    let list = says(&home, &["list"])?;
    ensure!(list.lines().count() == 1, "what never ran is listed: {list}");
    home.assert_nothing_left()
}

#[test]
fn what_nobody_could_be_told_of_does_not_run() -> Result<()> {
    let home = busybox()?;
    let mut start = home.matchlock(["run", "-d", "--image", BUSYBOX, "--", "sleep", "1000"]).command()?;
    let full = fs::File::options().write(true).open("/dev/full")?;
    let ended = start.stdin(Stdio::null()).stdout(full).output()?;
    let told = String::from_utf8(ended.stderr)?;
    let last = told.lines().last().unwrap_or_default();
    ensure!(ended.status.code() == Some(1), "{told}");
    ensure!(last == "write to standard output: No space left on device (os error 28)", "{told}");
    ensure!(says(&home, &["list"])?.lines().count() == 1);
    home.assert_nothing_left()
}

#[test]
fn following_a_log_can_be_stopped() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::start(&home, &["--image", BUSYBOX, "--", "sh", "-c", "echo logged; sleep 1000"])?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut log = follow(&home, sandbox.id())?;
        log.expect_stdout("logged\n")?;
        log.signal(signal)?;
        ensure!(log.wait()?.exits_with(code)?.stderr().is_empty());
    }
    Ok(())
}

#[test]
fn verbs_that_need_no_sandbox() -> Result<()> {
    let home = Home::empty()?;
    let version = says(&home, &["version"])?;
    ensure!(
        version.starts_with("matchlock ") && version.contains("commit: ") && version.contains("target: "),
        "{version}"
    );
    ensure!(version.starts_with(says(&home, &["--version"])?.trim_end()));
    let help = says(&home, &["help"])?;
    ensure!(help == says(&home, &["--help"])? && help == says(&home, &["-h"])?);
    for verb in [
        "run", "exec", "list", "get", "inspect", "log", "kill", "rm", "prune", "gc", "pull", "image", "template",
        "version",
    ] {
        ensure!(help.contains(&format!("\n  {verb} ")), "{verb}");
        ensure!(says(&home, &["help", verb])? == says(&home, &[verb, "--help"])?);
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = says(&home, &["completion", shell])?;
        ensure!(script.contains("matchlock") && script.contains("inspect"), "{shell}");
        fs::write(home.path().join(shell), script)?;
    }
    ensure!(tool("bash", "bash")?.arg("-n").arg(home.path().join("bash")).status()?.success());
    ensure!(says(&home, &["prune"])? == "Pruned 0 VMs\n" && says(&home, &["gc"])? == "Reconciled 0 VMs\n");
    ensure!(complains(&home, 1, &["kill"])?.contains("VM ID required"));
    ensure!(complains(&home, 1, &["rm"])?.contains("VM ID required"));
    ensure!(complains(&home, 1, &["lsit"])?.contains("unknown command \"lsit\""));
    ensure!(complains(&home, 1, &["get", "../../etc"])?.contains("not found"));
    Ok(())
}

#[test]
fn deleting_everything_is_a_full_reset() -> Result<()> {
    let home = busybox()?;
    says(&home, &["run", "--rm=false", "-d", "--image", BUSYBOX, "--", "sleep", "1000"])?;
    says(&home, &["kill", "--all"])?;
    fs::remove_dir_all(home.state().root())?;
    // The kernels are other stories', too.
    fs::remove_file(home.cache().kernels())?;
    fs::remove_dir_all(home.cache().root())?;
    ensure!(says(&home, &["list"])?.lines().count() == 1 && says(&home, &["image", "ls"])?.lines().count() == 1);
    says(&home, &["prune"])?;
    home.assert_nothing_left()
}

#[test]
fn a_damaged_database_is_said_plainly_and_not_used() -> Result<()> {
    let home = busybox()?;
    says(&home, &["list"])?;
    let database = home.state().database();
    for damaged in [
        "this is no database at all, and long enough for one to look at it as if it were".repeat(100),
        "short".to_owned(),
    ] {
        fs::write(&database, damaged)?;
        for verb in ["list", "gc", "prune"] {
            let line = complains(&home, 1, &[verb])?;
            ensure!(line.contains("is damaged") && line.contains(&database.display().to_string()), "{line}");
        }
        let line = complains(&home, 1, &["run", "--image", BUSYBOX, "--", "true"])?;
        ensure!(line.contains("is damaged"), "{line}");
        // The way out that the line names.
        let moved = says(&home, &["gc", "--move-aside"])?;
        let line = format!("{0} is damaged: moved to {0}.damaged-", database.display());
        ensure!(moved.starts_with(&line), "{moved}");
        ensure!(says(&home, &["list"])?.lines().count() == 1);
    }
    home.assert_nothing_left()
}
