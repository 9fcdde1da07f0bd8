//! `matchlock exec`: more programs in a sandbox that runs, connected to the caller as if they ran beside it.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::ffi::OsStrExt,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, Running};
use matchlock_tests::{BUSYBOX, DEBIAN, Sandbox, busybox, complaints, debian};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

/// For an emulated guest on a busy host to end a cancelled program, which would otherwise live on for a quarter of an hour.
/// (The contract says one second, on a host that has time.)
const CANCELLED_DEADLINE: Duration = Duration::from_secs(30);

const HUNDRED_MEGABYTES: usize = 100_000_000;

/// Bytes without a pattern (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn every_byte_passes_in_both_directions_and_streams_stay_apart() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    let every_byte: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let echoed = sandbox.exec(&["-i", "--", "cat"]).stdin(every_byte.clone()).run()?.success()?;
    ensure!(echoed.stdout == every_byte, "{} bytes came back", echoed.stdout.len());

    let apart = "cat >&2; echo out; echo err >&2; exit 7";
    let ended = sandbox.exec(&["-i", "--", "sh", "-c", apart]).stdin(every_byte.clone()).run()?.exits_with(7)?;
    ensure!(ended.stdout == b"out\n" && ended.stderr == [&every_byte[..], b"err\n"].concat(), "mixed up");

    // Without -i a program finds its input at its end.
    assert_eq!(sandbox.exec(&["cat"]).stdin("not for it").run()?.success()?.stdout(), "");

    let long = "x".repeat(100_000);
    let words = [&long, "", "two\nlines", "'\"$HOME"];
    let script = "echo $# ${#1}; printf '[%s]' \"$2\" \"$3\" \"$4\"";
    let printed = sandbox.exec(&[&["sh", "-c", script, "sh"], &words[..]].concat()).run()?.success()?;
    assert_eq!(printed.stdout(), "4 100000\n[][two\nlines]['\"$HOME]");

    // Arguments are bytes.
    let mut words: Vec<&OsStr> = ["exec", sandbox.id(), "--", "busybox", "printf", "%s|"].map(OsStr::new).to_vec();
    words.extend([OsStr::from_bytes(b"\xff"), OsStr::from_bytes(b"caf\xe9")]);
    assert_eq!(home.matchlock(words).run()?.success()?.stdout, b"\xff|caf\xe9|");

    let variables = ["-e", "A=1 2", "-e", "A=3", "-w", "/tmp", "--", "sh", "-c", "echo $A; pwd"];
    assert_eq!(sandbox.exec(&variables).run()?.success()?.stdout(), "3\n/tmp\n");
    Ok(())
}

#[test]
fn a_hundred_megabytes_pass_unchanged() -> Result<()> {
    let home = busybox()?;
    let data = noise(HUNDRED_MEGABYTES);
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    let there = sandbox.exec(&["-i", "--", "busybox", "sha256sum"]).stdin(data.clone()).run()?.success()?;
    assert_eq!(there.stdout(), format!("{}  -\n", digest(&data)));
    drop(sandbox);

    let run = home.matchlock(["run", "-i", "--image", BUSYBOX, "--", "cat"]).stdin(data.clone());
    let back = run.run()?.success()?;
    assert_eq!((back.stdout.len(), digest(&back.stdout)), (data.len(), digest(&data)));
    Ok(())
}

#[test]
fn a_program_that_reads_no_more_is_not_waited_for() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    let flood = vec![b'x'; 20_000_000];
    sandbox.exec(&["-i", "--", "sh", "-c", "exit 4"]).stdin(flood.clone()).run()?.exits_with(4)?;

    // It closes its input and works on; what the caller still sends goes nowhere and blocks nobody.
    let script = "busybox head -c 3; exec <&-; echo; echo closed; exit 5";
    let ended = sandbox.exec(&["-i", "--", "sh", "-c", script]).stdin(flood).run()?.exits_with(5)?;
    assert_eq!(ended.stdout(), "xxx\nclosed\n");

    // Nor is a caller that keeps its end open without sending anything.
    let mut silent = sandbox.exec(&["-i", "--", "sh", "-c", "read line; echo $line; exit 6"]).stdin_open().spawn()?;
    silent.write(b"hello\n")?;
    assert_eq!(silent.expect_stdout("hello\n")?, "hello\n");
    silent.wait()?.exits_with(6)?;
    Ok(())
}

#[test]
fn a_caller_that_reads_no_more_ends_a_writer_as_a_pipe_would() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    let mut writer = sandbox.exec(&["sh", "-c", "echo $$ > /tmp/pid; exec busybox yes"]).spawn()?;
    writer.expect_stdout("y\ny\n")?;
    writer.close_stdout();
    // SIGPIPE.
    assert_eq!(complaints(&writer.wait()?.exits_with(128 + 13)?), "");
    assert_eq!(sandbox.sh("kill -0 $(cat /tmp/pid) || echo gone")?, "gone");
    Ok(())
}

#[test]
fn output_that_cannot_be_written_is_a_failure() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    let mut echo = sandbox.exec(&["echo", "hello"]).command()?;
    let full = File::options().write(true).open("/dev/full")?;
    let ended = echo.stdin(Stdio::null()).stdout(full).output()?;
    let told = "pass on what the program writes: No space left on device (os error 28)\n";
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr)?.as_str()), (Some(1), told));
    Ok(())
}

#[test]
fn a_child_in_the_background_delays_nothing_and_nothing_is_lost() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    let script = "sleep 1000 & echo $! > /tmp/pid; busybox head -c 3000000 /dev/zero; echo last; echo also >&2";
    let ended = sandbox.exec(&["sh", "-c", script]).run()?.success()?;
    ensure!(ended.stdout.len() == 3_000_005 && ended.stdout.ends_with(b"last\n"), "{} bytes", ended.stdout.len());
    assert_eq!(ended.stderr(), "also\n");
    assert_eq!(sandbox.sh("kill -0 $(cat /tmp/pid) && echo goes on")?, "goes on");
    Ok(())
}

#[test]
fn programs_run_side_by_side() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    // Each waits for the other's word.
    let talk = || sandbox.exec(&["-i", "--", "cat"]).stdin_open().spawn();
    let (mut one, mut two) = (talk()?, talk()?);
    for round in 0..3 {
        for (talker, name) in [(&mut one, "one"), (&mut two, "two")] {
            let line = format!("{name} {round}\n");
            talker.write(line.as_bytes())?;
            talker.expect_stdout(&line)?;
        }
    }
    assert_eq!(one.wait()?.success()?.stdout(), "one 0\none 1\none 2\n");
    assert_eq!(two.wait()?.success()?.stdout(), "two 0\ntwo 1\ntwo 2\n");

    let many: Vec<Running> = (0..20)
        .map(|n| sandbox.exec(&["sh", "-c", &format!("echo {n}; busybox seq 5000; exit {n}")]).spawn())
        .collect::<Result<_>>()?;
    let numbers = (1..=5000).map(|n| format!("{n}\n")).collect::<Vec<_>>().concat();
    for (n, running) in many.into_iter().enumerate() {
        let ended = running.wait()?.exits_with(i32::try_from(n)?)?;
        ensure!(ended.stdout() == format!("{n}\n{numbers}") && ended.stderr().is_empty(), "{ended}");
    }
    Ok(())
}

#[test]
fn a_cancelled_program_is_gone() -> Result<()> {
    let home = debian()?;
    let sandbox = Sandbox::idle(&home, DEBIAN, &[])?;
    let obedient = "echo $$ > /tmp/pid; echo ready; exec sleep 1000";
    let stubborn = "trap '' TERM INT HUP; echo $$ > /tmp/pid; echo ready; while :; do sleep 1000; done";
    for (script, signal, code) in [(obedient, Signal::INT, 130), (stubborn, Signal::TERM, 143)] {
        let mut running = sandbox.exec(&["sh", "-c", script]).spawn()?;
        running.expect_stdout("ready\n")?;
        let watcher = sandbox.watch()?;

        let cancelled = Instant::now();
        running.signal(signal)?;
        watcher.wait()?.success()?;
        let took = cancelled.elapsed();
        assert_eq!(running.wait()?.exits_with(code)?.stderr(), "");
        ensure!(took < CANCELLED_DEADLINE, "{script} lived on for {took:?}");
    }
    Ok(())
}

#[test]
fn a_sandbox_can_be_entered_while_run_is_alive_and_its_end_is_told_in_one_line() -> Result<()> {
    let home = busybox()?;
    let run = ["run", "-i", "--image", BUSYBOX, "--", "sh", "-c", "echo $$ > /tmp/first; echo ready; cat"];
    let mut run = home.matchlock(run).stdin_open().spawn()?;
    run.expect_stdout("ready\n")?;
    let id = only_sandbox(&home)?;
    let script = "kill -0 $(cat /tmp/first) && echo together";
    assert_eq!(home.matchlock(["exec", &id, "--", "sh", "-c", script]).run()?.success()?.stdout(), "together\n");

    let mut caught = home.matchlock(["exec", &id, "--", "sh", "-c", "echo inside; sleep 1000"]).spawn()?;
    caught.expect_stdout("inside\n")?;
    run.close_stdin();
    assert_eq!(run.wait()?.success()?.stdout(), "ready\n");
    let caught = caught.wait()?.exits_with(1)?;
    insta::assert_snapshot!(caught.stderr(), @"exec: the sandbox has ended");
    let late = home.matchlock(["exec", &id, "--", "true"]).run()?.exits_with(1)?;
    assert_eq!(late.stderr(), format!("get VM: VM {id} not found\n"));
    Ok(())
}

/// The id of the sandbox that `list` shows.
fn only_sandbox(home: &Home) -> Result<String> {
    let listed = home.matchlock(["list"]).run()?.success()?.stdout();
    let row = listed.lines().nth(1).with_context(|| listed.clone())?;
    ensure!(row.contains(" running "), "{listed}");
    Ok(row.split(' ').next().unwrap_or_default().to_owned())
}
