//! Disks that outlive sandboxes, and disks without space.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, Output, images, run, tool};
use matchlock_tests::{
    BUSYBOX, DEBIAN, Sandbox, busybox, logged, machine_of, only_as_root, query, sandbox_folder,
    templates::without_templates, until,
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::Signal,
    thread::{UnshareFlags, unshare_unsafe},
};

fn empty_disk(home: &Home) -> Result<PathBuf> {
    let disk = home.path().join("data.ext4");
    File::create(&disk)?.set_len(32 << 20)?;
    run(tool("mke2fs", "e2fsprogs")?.args(["-q", "-t", "ext4"]).arg(&disk))?;
    Ok(disk)
}

/// What is in a file on a disk that no sandbox uses.
fn file_on(disk: &Path, file: &str) -> Result<String> {
    run(tool("debugfs", "e2fsprogs")?.args(["-R", &format!("cat {file}")]).arg(disk))
}

fn sh<'a>(flags: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["run", "--image", BUSYBOX], flags, &["--", "sh", "-c", script]].concat()
}

#[test]
fn a_disk_keeps_what_was_written() -> Result<()> {
    let home = busybox()?;
    let disk = empty_disk(&home)?;
    let writable = format!("{}:/data", disk.display());
    home.matchlock(sh(&["--disk", &writable], "echo kept >/data/file")).run()?.success()?;

    let script = "cat /data/file; echo more >/data/file || echo refused";
    let readonly = format!("{writable}:ro");
    let output = home.matchlock(sh(&["--disk", &readonly], script)).run()?.success()?;
    ensure!(output.stdout() == "kept\nrefused\n" && output.stderr().contains("Read-only file system"), "{output}");
    ensure!(file_on(&disk, "file")? == "kept\n");

    // A signal ends the command, not the care for the disk.
    let script = "echo late >/data/late; echo written; sleep 1000";
    let running = home.matchlock(sh(&["--disk", &writable], script)).spawn()?;
    until(&running, "the file", || logged(&home).contains("written").then_some(()))?;
    running.signal(Signal::TERM)?;
    running.wait()?.exits_with(143)?;
    ensure!(file_on(&disk, "late")? == "late\n");

    // It was put down cleanly, and is whole.
    let features = run(tool("dumpe2fs", "e2fsprogs")?.arg("-h").arg(&disk))?;
    ensure!(!features.contains("needs_recovery"), "{features}");
    run(tool("e2fsck", "e2fsprogs")?.args(["-f", "-n"]).arg(&disk))?;
    Ok(())
}

#[test]
fn the_first_sandbox_of_a_shape_is_the_machine_that_was_saved_and_shares_nothing_with_the_next() -> Result<()> {
    let home = without_templates()?;
    let disk = empty_disk(&home)?;
    let writable = format!("{}:/data", disk.display());
    let script = "ls /data /left 2>&1; echo left >/left; echo kept >>/data/file; cat /data/file; \
        cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; hostname; head -c 16 /dev/urandom | od -A n -t x1";
    let mut said = Vec::new();
    for _ in 0..2 {
        let flags = ["--log-level", "debug", "run", "--image", BUSYBOX, "--disk", &writable, "--", "sh", "-c", script];
        let output = home.matchlock(flags).run()?.success()?;
        ensure!(output.stderr().matches("qemu started").count() == 1, "{output}");
        ensure!(!output.stderr().contains("starting cold"), "{output}");
        said.push(output.stdout());
    }
    let [first, second] = [0, 1].map(|run| said[run].lines().collect::<Vec<_>>());
    // What the first one did is not in what the next ones begin with.
    ensure!(first[..4] == ["ls: /left: No such file or directory", "/data:", "lost+found", "kept"], "{first:?}");
    ensure!(second[..4] == ["ls: /left: No such file or directory", "/data:", "file", "lost+found"], "{second:?}");
    ensure!(second[4..6] == ["kept", "kept"], "{second:?}");
    ensure!(first.len() == 8 && second.len() == 10, "{first:?} {second:?}");
    ensure!(first[4..].iter().all(|line| !second.contains(line)), "{first:?} {second:?}");
    ensure!(file_on(&disk, "/file")? == "kept\nkept\n");
    Ok(())
}

#[test]
fn a_disk_that_is_written_to_has_one_sandbox() -> Result<()> {
    let home = busybox()?;
    let disk = empty_disk(&home)?;
    let writable = format!("{}:/data", disk.display());
    let readonly = format!("{writable}:ro");
    let script = "echo up; sleep 1000";
    let refused = |flag: &str| -> Result<()> {
        let output = home.matchlock(sh(&["--disk", flag], "true")).run()?.exits_with(1)?;
        let line = format!(
            "start sandbox: disk {} is in use: only read-only (`:ro`) can several sandboxes use it at once\n",
            disk.display()
        );
        ensure!(output.stderr() == line, "{output}");
        Ok(())
    };

    let writer = home.matchlock(sh(&["--disk", &writable], script)).spawn()?;
    until(&writer, "the writer", || logged(&home).contains("up").then_some(()))?;
    refused(&writable)?;
    refused(&readonly)?;
    writer.signal(Signal::TERM)?;
    writer.wait()?.exits_with(143)?;

    let reader = home.matchlock(sh(&["--disk", &readonly], script)).spawn()?;
    until(&reader, "the reader", || logged(&home).contains("up").then_some(()))?;
    refused(&writable)?;
    home.matchlock(sh(&["--disk", &readonly], "true")).run()?.success()?;
    reader.signal(Signal::TERM)?;
    reader.wait()?.exits_with(143)?;
    Ok(())
}

#[test]
fn a_disk_that_was_not_written_out_is_told_of_by_kill_record_and_log() -> Result<()> {
    let home = busybox()?;
    let disk_flag = format!("{}:/data", empty_disk(&home)?.display());
    let script = "trap 'echo saving; sleep 1000' TERM; echo ready; while :; do sleep 0.1; done";
    let flags = ["--disk", &disk_flag, "--graceful-shutdown", "90s"];
    let sandbox = Sandbox::start(&home, &sh(&flags, script)[1..])?;
    let id = sandbox.id();
    let supervisor = query(&home, "SELECT pid FROM vms")?.trim().parse()?;
    let machine = machine_of(supervisor).context("a virtual machine")?;
    let mut log = home.matchlock(["log", "--follow", id]).spawn()?;
    log.expect_stdout("ready\n")?;

    let kill = home.matchlock(["kill", id]).spawn()?;
    log.expect_stdout("saving\n")?;
    machine.kill()?;
    let output = kill.wait()?.exits_with(1)?;
    let why = "the guest did not end in order (the virtual machine ended with signal 9): what it had not written to its \
               disks is lost";
    ensure!(output.stdout() == format!("Killed {id}\n"), "{output}");
    ensure!(output.stderr() == format!("{id}: {why}\n"), "{output}");
    let record = home.matchlock(["inspect", id]).run()?.success()?.stdout();
    ensure!(record.contains(why) && logged(&home).contains(why), "{record}");
    Ok(())
}

#[test]
fn a_graceful_shutdown_gives_a_command_the_time_to_save_its_work() -> Result<()> {
    let home = busybox()?;
    let disk = empty_disk(&home)?;
    let disk_flag = format!("{}:/data", disk.display());
    let script =
        "trap 'echo saving; sleep 3; echo saved >/data/work; exit' TERM; echo ready; while :; do sleep 0.1; done";
    let running = home.matchlock(sh(&["--disk", &disk_flag, "--graceful-shutdown", "60s"], script)).spawn()?;
    until(&running, "the trap", || logged(&home).contains("ready").then_some(()))?;
    running.signal(Signal::TERM)?;
    let output = running.wait()?.exits_with(143)?;
    ensure!(file_on(&disk, "work")? == "saved\n", "{output}");
    ensure!(output.stdout() == "ready\nsaving\n", "what it says in that time is shown: {output}");
    Ok(())
}

#[test]
fn a_full_writable_layer_is_the_guests_own_trouble() -> Result<()> {
    let home = busybox()?;
    let script = "busybox dd if=/dev/zero of=/big bs=1M count=64; echo status $?; echo a >/tmp/a; rm /big; echo a >/tmp/a && cat /tmp/a";
    let script = script.replace("rm /big", "busybox rm /big");
    let output = home.matchlock(sh(&["--disk-size", "16"], &script)).run()?.success()?;
    ensure!(output.stdout() == "status 1\na\n" && output.stderr().contains("No space left on device"), "{output}");
    Ok(())
}

/// A small file system over a folder, seen by this thread and what it starts.
struct SmallDisk(PathBuf);

impl SmallDisk {
    #[expect(unsafe_code, reason = "what unshare does to other threads is the caller's care")]
    fn over(folder: PathBuf, kilobytes: u64) -> Result<Self> {
        // SAFETY: only this thread sees other mounts from now on, and it shares none of its descriptors' state.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let options = std::ffi::CString::new(format!("size={kilobytes}k,mode=0700"))?;
        fs::create_dir_all(&folder)?;
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        Ok(Self(folder))
    }

    /// Fill what is left of it.
    fn fill(&self) -> Result<()> {
        let mut zeros = std::io::repeat(0);
        let outcome = std::io::copy(&mut zeros, &mut File::create(self.0.join("filler"))?);
        ensure!(outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull));
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn one_line_about_space(output: Output) -> Result<()> {
    let output = output.exits_with(1)?;
    let errors = output.stderr();
    let lines: Vec<_> =
        errors.lines().filter(|line| !line.starts_with("Importing") && !line.starts_with("using soft")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("No space left on device"), "{output}");
    Ok(())
}

#[test]
fn no_space_for_an_image() -> Result<()> {
    if !only_as_root("mount a small disk") {
        return Ok(());
    }
    let home = Home::new()?;
    let small = SmallDisk::over(home.cache().images(), 20_000)?;
    let import = || home.matchlock(["image", "import", DEBIAN]).stdin_file(&images::debian()?).run();
    one_line_about_space(import()?)?;
    let left = fs::read_dir(home.cache().blobs())?.flatten().map(|entry| entry.path());
    let left: Vec<_> = left.filter(|path| path.extension().is_none_or(|kind| kind != "lock")).collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(home.matchlock(["image", "ls"]).run()?.success()?.stdout().lines().count() == 1);
    // With room for it, it works.
    home.matchlock(["image", "import", BUSYBOX]).stdin_file(&images::busybox()?).run()?.success()?;
    drop(small);
    Ok(())
}

#[test]
fn no_space_for_the_state() -> Result<()> {
    if !only_as_root("mount a small disk") {
        return Ok(());
    }
    let home = busybox()?;
    let small = SmallDisk::over(home.state().root().to_owned(), 4_000)?;
    home.matchlock(["list"]).run()?.success()?;
    small.fill()?;
    one_line_about_space(home.matchlock(sh(&[], "true")).run()?)?;
    ensure!(sandbox_folder(&home).is_none(), "a folder is left");
    fs::remove_file(home.state().root().join("filler"))?;
    ensure!(home.matchlock(["list"]).run()?.success()?.stdout().lines().count() == 1);
    home.assert_nothing_left()?;
    drop(small);
    Ok(())
}

#[test]
fn no_space_for_the_writable_layer_while_it_is_used() -> Result<()> {
    if !only_as_root("mount a small disk") {
        return Ok(());
    }
    let home = busybox()?;
    // The layer is larger than the disk it lies on: it is sparse.
    let small = SmallDisk::over(home.state().root().to_owned(), 12_000)?;
    let script = "busybox dd if=/dev/zero of=/big bs=1M count=64 conv=fsync; echo status $?";
    let output = home.matchlock(sh(&["--disk-size", "512"], script)).run()?.success()?;
    ensure!(output.stdout() == "status 1\n" && output.stderr().contains("Input/output error"), "{output}");
    ensure!(sandbox_folder(&home).is_none(), "a folder is left");
    home.assert_nothing_left()?;
    drop(small);
    Ok(())
}
