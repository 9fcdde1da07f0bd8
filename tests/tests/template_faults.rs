//! What becomes of a run whose template is cut off while it is made, cannot be made, or does not go on.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, Running, tool};
use matchlock_tests::{
    BUSYBOX, busybox, complaints, machine_of, only_as_root,
    templates::{entries, open, run_in_busybox, runs_quietly, runs_with_one_line, template, without_templates},
    until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Does this folder show that the moment has come?
type Reached = fn(&Path) -> bool;

/// What a file of a template takes up on the disk.
fn size(template: &Path, name: &str) -> u64 {
    fs::metadata(template.join(name)).map_or(0, |file| file.blocks())
}

#[test]
fn killed_while_it_makes_a_template() -> Result<()> {
    let home = without_templates()?;
    let moments: [(&str, Reached); 5] = [
        ("a begun template", |_| true),
        ("a guest that is about to boot", |path| path.join("state").exists()),
        ("a saved state", |path| size(path, "state") > 0),
        ("a copy of its memory", |path| size(path, "memory") > 0),
        ("a recipe", |path| size(path, "template.json") > 0),
    ];
    // What the one before left is there until the next one begins.
    let start_until = |what, reached: Reached| -> Result<Running> {
        let left = entries(&home);
        let start = run_in_busybox(&home, &["true"]).spawn()?;
        until(&start, what, || entries(&home).iter().find(|path| !left.contains(path) && reached(path)).map(drop))?;
        Ok(start)
    };
    for (what, reached) in moments {
        let start = start_until(what, reached)?;
        let machine = machine_of(start.pid());
        start.signal(Signal::KILL)?;
        start.wait()?;
        if let Some(machine) = machine {
            machine.ends()?;
        }
        // It may have been finished in the last moment. The next one begins anew, in any case.
        for finished in entries(&home).iter().filter(|path| path.extension().is_none()) {
            fs::remove_dir_all(finished)?;
        }
        ensure!(entries(&home).len() <= 1, "what was left before is still there: {:?}", entries(&home));
    }
    // Who is only asked to end leaves nothing.
    for (what, reached) in &moments[1..4] {
        let start = start_until(what, *reached)?;
        start.signal(Signal::INT)?;
        start.wait()?.exits_with(130)?;
        ensure!(entries(&home).is_empty(), "{what}: {:?}", entries(&home));
    }
    runs_quietly(&home)?;
    template(&home).map(drop)
}

#[test]
fn no_room_for_a_template() -> Result<()> {
    if !only_as_root("have a small file system") {
        return Ok(());
    }
    let home = without_templates()?;
    fs::create_dir(home.cache().templates())?;
    let matchlock = run_in_busybox(&home, &["echo", "hello"]).command()?;
    let script = "mount -t tmpfs -o size=8m tmpfs \"$PLACE\" && \"$@\"; status=$?; ls -A \"$PLACE\"; exit $status";
    let mut command = tool("unshare", "util-linux")?;
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(matchlock.get_program()).args(matchlock.get_args());
    let output = command.env("HOME", home.path()).env("PLACE", home.cache().templates()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("using software emulation")).collect();
    ensure!(output.status.success() && output.stdout == b"hello\n.lock\n", "{output:?}");
    ensure!(lines == ["starting cold: write the template: No space left on device (os error 28)"], "{output:?}");
    Ok(())
}

/// Have the files of a template taken for sound, as if they had been compared in this boot.
fn vouch_for(template: &Path) -> Result<()> {
    let nanoseconds = |seconds: i64, rest: i64| seconds * 1_000_000_000 + rest;
    let identity = |name: &str| -> Result<Value> {
        let meta = fs::metadata(template.join(name))?;
        let (changed, touched) =
            (nanoseconds(meta.mtime(), meta.mtime_nsec()), nanoseconds(meta.ctime(), meta.ctime_nsec()));
        Ok(json!([meta.len(), meta.ino(), changed, touched]))
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let files = [identity("memory")?, identity("state")?, identity("layer")?];
    Ok(fs::write(template.join("checked.json"), json!({ "boot_id": boot.trim(), "files": files }).to_string())?)
}

#[test]
fn a_guest_that_does_not_go_on_is_booted_instead() -> Result<()> {
    let home = without_templates()?;
    runs_quietly(&home)?;
    let made = template(&home)?;
    // Its memory is zeros.
    let memory = open(&made.join("memory"))?;
    let len = memory.metadata()?.len();
    memory.set_len(0)?;
    memory.set_len(len)?;
    vouch_for(&made)?;
    let line = runs_with_one_line(&home)?;
    ensure!(line.starts_with("starting cold: the restored guest did not go on: "), "{line}");
    ensure!(entries(&home).is_empty(), "it would be tried again");
    runs_quietly(&home)
}

#[test]
#[ignore = "long: waits for a guest that never answers"]
fn a_guest_that_never_answers_is_given_up_and_booted_instead() -> Result<()> {
    let home = without_templates()?;
    runs_quietly(&home)?;
    let made = template(&home)?;
    make_agent_spin(&home, &made.join("memory"))?;
    vouch_for(&made)?;
    let line = runs_with_one_line(&home)?;
    ensure!(line.starts_with("starting cold: the restored guest did not answer within "), "{line}");
    ensure!(entries(&home).is_empty(), "it would be tried again");
    runs_quietly(&home)
}

/// Put endless loops in place of the agent's code, wherever the guest's memory holds pages of it.
fn make_agent_spin(home: &Home, memory: &Path) -> Result<()> {
    const PAGE: usize = 4096;
    let mut files = fs::read_dir(home.cache().initramfs())?.flatten().map(|entry| entry.path());
    let archive = files.find(|path| path.extension().is_some_and(|kind| kind == "cpio")).context("an initramfs")?;
    let archive = fs::read(archive)?;
    let agent = archive.windows(4).position(|word| word == b"\x7fELF").context("a program")?;
    let pages: BTreeSet<&[u8]> =
        archive[agent..].chunks_exact(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)).collect();
    // Steps that do nothing, from wherever the program goes on, to a jump to itself.
    let mut spin = [0x90; PAGE];
    spin[PAGE - 2..].copy_from_slice(&[0xeb, 0xfe]);
    let bytes = fs::read(memory)?;
    let file = open(memory)?;
    let mut found = 0;
    for (page, at) in bytes.chunks_exact(PAGE).zip((0..).step_by(PAGE)) {
        if pages.contains(page) {
            file.write_all_at(&spin, at)?;
            found += 1;
        }
    }
    ensure!(found > 0, "no page of the agent's in {}", memory.display());
    Ok(())
}

#[test]
fn a_disk_that_no_saved_guest_can_have_is_named_as_its_user_does() -> Result<()> {
    let home = busybox()?;
    let disk = home.path().join("large.ext4");
    File::create(&disk)?.set_len(2 << 40)?;
    // With as few inodes as one of this size can have.
    let mut mke2fs = tool("mke2fs", "e2fsprogs")?;
    mke2fs.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-i",
        "67108864",
    ]);
    ensure!(mke2fs.arg(&disk).status()?.success());
    let flag = format!("{}:/large", disk.display());
    let output = home.matchlock(["run", "--image", BUSYBOX, "--disk", &flag, "--", "true"]).run()?.success()?;
    let line = format!("starting cold: disk {} is larger than a saved guest can be given\n", disk.display());
    ensure!(complaints(&output) == line, "{output}");
    Ok(())
}
