//! The supervisor, or its virtual machine, dies at any moment of a sandbox's life: nothing is left that the next command
//! does not clean, and nothing ever looks as if it were running.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use matchlock_testkit::{Home, Output, Running, images};
use matchlock_tests::{
    BUSYBOX, DEBIAN, Family, Process, busybox, hold_database, logged, machine_of, query, sandbox_folder, until,
};
use rustix::process::Signal;

/// A command that says that it runs, and goes on.
const GOES_ON: [&str; 3] = ["sh", "-c", "echo under way; sleep 1000"];

fn start(home: &Home, flags: &[&str]) -> Result<Running> {
    home.matchlock([&["run", "--image", BUSYBOX][..], flags, &["--"], &GOES_ON].concat()).spawn()
}

fn wait_for_machine(home: &Home, run: &Running) -> Result<Process> {
    // QEMU is also asked what it can do, and runs a guest that is to be saved, before there is a sandbox.
    wait_for_file(home, run, "vm.log")?;
    until(run, "a virtual machine", || machine_of(run.pid()))
}

fn wait_for_file(home: &Home, run: &Running, name: &str) -> Result<()> {
    until(run, name, || sandbox_folder(home)?.join(name).exists().then_some(()))
}

fn wait_for_command(home: &Home, run: &Running) -> Result<()> {
    until(run, "the command", || logged(home).contains("under way").then_some(()))
}

fn line(output: &Output) -> String {
    let lines: Vec<_> =
        output.stderr().lines().filter(|line| !line.starts_with("using software")).map(str::to_owned).collect();
    lines.join("\n")
}

/// Kill the supervisor when `moment` has come, and look at what it leaves.
fn killed(flags: &[&str], moment: impl FnOnce(&Home, &Running) -> Result<()>) -> Result<()> {
    let home = busybox()?;
    let run = start(&home, flags)?;
    moment(&home, &run)?;
    run.signal(Signal::STOP)?;
    let family = Family::of(run.pid());
    run.signal(Signal::KILL)?;
    let output = run.wait()?;
    ensure!(output.code() == 128 + 9, "{output}");
    family.ends()?;
    everything_can_be_cleaned(&home)
}

/// No sandbox seems to run; `gc` gives back what is left, once; `prune` removes the rest.
fn everything_can_be_cleaned(home: &Home) -> Result<()> {
    let list = home.matchlock(["list"]).run()?.success()?.stdout();
    ensure!(!list.contains("running"), "{list}");
    ensure!(home.matchlock(["list", "--running", "--json"]).run()?.success()?.stdout().trim() == "[]");
    let known = list.lines().count() - 1;

    home.matchlock(["gc"]).run()?.success()?;
    let again = home.matchlock(["gc"]).run()?.success()?.stdout();
    ensure!(!again.contains("cleaned") && again.contains(&format!("Reconciled {known} VMs")), "{again}");
    let pruned = home.matchlock(["prune"]).run()?.success()?.stdout();
    ensure!(pruned.contains(&format!("Pruned {known} VMs")), "{pruned}");
    nothing_is_left(home)
}

fn nothing_is_left(home: &Home) -> Result<()> {
    home.assert_nothing_left()?;
    ensure!(sandbox_folder(home).is_none(), "a folder is left");
    ensure!(query(home, "SELECT count(*) FROM vms; SELECT count(*) FROM undo")? == "0\n0", "rows are left");
    Ok(())
}

#[test]
fn killed_as_soon_as_it_is_started() -> Result<()> {
    killed(&[], |_, _| Ok(()))
}

#[test]
fn killed_when_its_database_appears() -> Result<()> {
    killed(&[], |home, run| until(run, "state.db", || home.state().database().exists().then_some(())))
}

#[test]
fn killed_when_its_row_is_written() -> Result<()> {
    killed(&[], |home, run| {
        until(run, "a row", || {
            let rows = query(home, "SELECT count(*) FROM vms WHERE status = 'running'").ok()?;
            (rows == "1").then_some(())
        })
    })
}

#[test]
fn killed_when_its_folder_is_made() -> Result<()> {
    killed(&[], |home, run| until(run, "a folder", || sandbox_folder(home).map(drop)))
}

#[test]
fn killed_when_its_writable_layer_is_made() -> Result<()> {
    killed(&[], |home, run| wait_for_file(home, run, "upper.ext4"))
}

#[test]
fn killed_when_its_machine_is_started() -> Result<()> {
    killed(&[], |home, run| wait_for_machine(home, run).map(drop))
}

#[test]
fn killed_when_its_guest_is_ready() -> Result<()> {
    killed(&[], |home, run| wait_for_file(home, run, "exec.sock"))
}

#[test]
fn killed_while_its_command_and_an_exec_run() -> Result<()> {
    killed(&[], |home, run| {
        wait_for_command(home, run)?;
        let id = query(home, "SELECT id FROM vms")?;
        let mut exec =
            home.matchlock(["exec", "-i", &id, "--", "sh", "-c", "echo inside >/marker; cat"]).stdin_open().spawn()?;
        exec.write(b"x")?;
        home.matchlock(["exec", &id, "--", "sh", "-c", "until test -e /marker; do :; done"]).run()?.success()?;
        run.signal(Signal::KILL)?;
        let exec = exec.wait()?;
        ensure!(exec.code() == 1 && line(&exec) == "exec: the sandbox has ended", "{exec}");
        Ok(())
    })
}

#[test]
fn killed_right_after_it_was_asked_to_end() -> Result<()> {
    killed(&["--graceful-shutdown", "30s"], |home, run| {
        wait_for_command(home, run)?;
        run.signal(Signal::TERM)
    })
}

#[test]
fn killed_while_it_cleans_up() -> Result<()> {
    let home = busybox()?;
    let run = start(&home, &["--rm=false"])?;
    wait_for_command(&home, &run)?;
    let machine = wait_for_machine(&home, &run)?;
    // It has a lot of time for a clean-up that cannot write.
    let lock = hold_database(&home)?;
    run.signal(Signal::TERM)?;
    machine.ends()?;
    run.signal(Signal::KILL)?;
    ensure!(run.wait()?.code() == 128 + 9);
    drop(lock);
    everything_can_be_cleaned(&home)
}

#[test]
fn killed_while_another_process_ends_it() -> Result<()> {
    let home = busybox()?;
    let run = start(&home, &["--rm=false"])?;
    wait_for_file(&home, &run, "exec.sock")?;
    let machine = wait_for_machine(&home, &run)?;
    // It cannot answer, so that `kill` waits for it.
    run.signal(Signal::STOP)?;
    let id = query(&home, "SELECT id FROM vms")?;
    let kill = home.matchlock(["kill", &id]).spawn()?;
    until(&kill, "a signal", || pending(run.pid(), 15).then_some(()))?;
    run.signal(Signal::KILL)?;
    ensure!(kill.wait()?.success()?.stdout() == format!("Killed {id}\n"));
    ensure!(run.wait()?.code() == 128 + 9);
    machine.ends()?;
    everything_can_be_cleaned(&home)
}

/// Does a signal wait to be taken by this process?
fn pending(pid: u32, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[test]
fn a_machine_that_dies_is_one_line_and_nothing_left() -> Result<()> {
    let home = busybox()?;
    let run = start(&home, &[])?;
    wait_for_command(&home, &run)?;
    wait_for_machine(&home, &run)?.kill()?;
    let output = run.wait()?.exits_with(1)?;
    ensure!(
        output.stdout() == "under way\n" && line(&output) == "sandbox ended: the virtual machine ended with signal 9",
        "{output}"
    );
    nothing_is_left(&home)?;

    let run = start(&home, &["--cold"])?;
    wait_for_machine(&home, &run)?.kill()?;
    let output = run.wait()?.exits_with(1)?;
    ensure!(line(&output).starts_with("start sandbox: ") && line(&output).lines().count() == 1, "{output}");
    nothing_is_left(&home)
}

#[test]
fn signals_during_boot_leave_nothing() -> Result<()> {
    let home = busybox()?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let run = start(&home, &[])?;
        let machine = wait_for_machine(&home, &run)?;
        run.signal(signal)?;
        run.wait()?.exits_with(code)?;
        machine.ends()?;
        nothing_is_left(&home)?;
    }
    Ok(())
}

#[test]
fn signals_to_a_detached_start_leave_nothing() -> Result<()> {
    let home = busybox()?;
    let run = start(&home, &["--detach"])?;
    wait_for_file(&home, &run, "upper.ext4")?;
    run.signal(Signal::INT)?;
    run.wait()?.exits_with(130)?;
    nothing_is_left(&home)
}

#[test]
fn signals_during_a_command_leave_nothing() -> Result<()> {
    let home = busybox()?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let run = start(&home, &[])?;
        wait_for_command(&home, &run)?;
        let machine = wait_for_machine(&home, &run)?;
        run.signal(signal)?;
        let output = run.wait()?.exits_with(code)?;
        ensure!(output.stdout() == "under way\n", "{output}");
        machine.ends()?;
        nothing_is_left(&home)?;
    }
    Ok(())
}

#[test]
fn killed_during_the_first_fetch_of_a_kernel() -> Result<()> {
    let home = Home::empty()?;
    let kernels = home.cache().kernels();
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&kernels).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name != ".lock").collect()
    };
    let fetch = home.matchlock(["kernel", "pull"]).spawn()?;
    until(&fetch, "a begun fetch", || (!names().is_empty()).then_some(()))?;
    fetch.signal(Signal::KILL)?;
    fetch.wait()?;
    let unfinished =
        || names().iter().filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "tmp")).count();
    ensure!(names().len() == 1 && unfinished() == 1, "{:?}", names());

    home.matchlock(["kernel", "pull"]).run()?.success()?;
    ensure!(names().len() == 1 && unfinished() == 0, "{:?}", names());
    Ok(())
}

#[test]
fn killed_during_an_import() -> Result<()> {
    let home = Home::new()?;
    let archive = fs::read(images::busybox()?)?;
    let blobs = home.cache().blobs();
    let files = || fs::read_dir(&blobs).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();

    // While the archive arrives.
    let mut import = home.matchlock(["image", "import", BUSYBOX]).stdin_open().spawn()?;
    import.write(&archive[..archive.len() / 2])?;
    import.signal(Signal::KILL)?;
    import.wait()?;
    ensure!(files().is_empty(), "{:?}", files());

    // While a large one is unpacked.
    let import = home.matchlock(["image", "import", DEBIAN]).stdin_file(&images::debian()?).spawn()?;
    until(&import, "a begun image", || (!files().is_empty()).then_some(()))?;
    import.signal(Signal::KILL)?;
    import.wait()?;
    ensure!(home.matchlock(["image", "ls"]).run()?.success()?.stdout().lines().count() == 1);

    home.matchlock(["image", "import", BUSYBOX]).stdin(archive).run()?.success()?;
    ensure!(files().len() == 1 && files()[0].extension().is_some_and(|kind| kind == "erofs"), "{:?}", files());
    Ok(())
}
