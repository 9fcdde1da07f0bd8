//! Sandboxes that continue one saved guest: of one shape, and otherwise strangers to each other. And what becomes of a run
//! whose template is damaged, cannot be made, or does not go on.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Compression, Home, ImageSpec, LayerTar, Matchlock, Running, busybox_layer, tool};
use matchlock_tests::{BUSYBOX, DEBIAN, Sandbox, busybox, complaints, debian, import, machine_of, only_as_root, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A home with the busybox image whose templates are its own, and none is there.
fn without_templates() -> Result<Home> {
    let home = busybox()?;
    // Other stories share theirs.
    fs::remove_file(home.cache().templates())?;
    Ok(home)
}

fn run(home: &Home, command: &[&str]) -> Matchlock {
    home.matchlock([&["run", "--image", BUSYBOX, "--"], command].concat())
}

/// Run something in a sandbox, which says nothing else.
fn runs_quietly(home: &Home) -> Result<()> {
    let output = run(home, &["echo", "hello"]).run()?.success()?;
    ensure!(output.stdout() == "hello\n" && complaints(&output).is_empty(), "{output}");
    Ok(())
}

/// Run something in a sandbox, which says one more line; that line.
fn runs_with_one_line(home: &Home) -> Result<String> {
    let output = run(home, &["echo", "hello"]).run()?.success()?;
    let line = complaints(&output);
    ensure!(output.stdout() == "hello\n" && line.lines().count() == 1, "{output}");
    Ok(line)
}

fn says(home: &Home, arguments: &[&str]) -> Result<String> {
    Ok(home.matchlock(arguments).run()?.success()?.stdout())
}

/// Everything in the folder of templates but its lock.
fn entries(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.cache().templates()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.ends_with(".lock")).collect()
}

/// The one template, and nothing unfinished beside it.
fn template(home: &Home) -> Result<PathBuf> {
    let entries = entries(home);
    let [template] = &entries[..] else { anyhow::bail!("one template was expected: {entries:?}") };
    ensure!(template.extension().is_none(), "{entries:?}");
    Ok(template.clone())
}

fn open(path: &Path) -> Result<File> {
    File::options().read(true).write(true).open(path).with_context(|| path.display().to_string())
}

#[test]
fn sandboxes_of_one_template_share_no_identity_and_nothing_random() -> Result<()> {
    let home = debian()?;
    let script = "
import os, time
for name in ('hostname', 'random/boot_id', 'random/uuid'):
    print(open('/proc/sys/kernel/' + name).read().strip())
print(os.getrandom(16).hex(), open('/dev/urandom', 'rb').read(16).hex(), time.time(), sep='\\n')
";
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let ended = home.matchlock(["run", "--image", DEBIAN, "--", "python3", "-c", script]).run()?.success()?;
        let after = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        ensure!(!complaints(&ended).contains("starting cold"), "{ended}");
        let said = ended.stdout();
        let lines: Vec<_> = said.lines().collect();
        ensure!(lines.len() == 6, "{ended}");
        for line in &lines[..5] {
            ensure!(seen.insert((*line).to_owned()), "{line:?} was in the first sandbox, too");
        }
        let clock: f64 = lines[5].parse()?;
        ensure!((before - 0.5..after + 0.5).contains(&clock), "{clock} is not between {before} and {after}");
    }
    Ok(())
}

#[test]
fn an_image_that_asks_for_a_machine_id_gets_one_for_each_sandbox() -> Result<()> {
    let home = busybox()?;
    let image = |tag: &str, id: &[u8]| {
        let own = LayerTar::new().folder("etc")?.file("etc/machine-id", 0o444, id)?.finish()?;
        let layers = vec![(busybox_layer()?, Compression::Plain), (own, Compression::Plain)];
        let config = json!({ "Env": ["PATH=/bin"] });
        import(&home, tag, &ImageSpec { layers, config, architecture: "amd64".to_owned(), name: None })
    };
    image("empty:test", b"")?;
    image("own:test", b"0123456789abcdef0123456789abcdef\n")?;
    let id = |tag: &str| says(&home, &["run", "--image", tag, "--", "cat", "/etc/machine-id"]);
    let (one, other) = (id("empty:test")?, id("empty:test")?);
    for id in [&one, &other] {
        ensure!(id.len() == 33 && id.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?}");
    }
    ensure!(one != other, "{one:?} twice");
    ensure!(id("own:test")? == "0123456789abcdef0123456789abcdef\n", "what the image says is the image's");
    // One that has none keeps having none.
    run(&home, &["test", "-e", "/etc/machine-id"]).run()?.exits_with(1)?;
    Ok(())
}

#[test]
fn templates_are_listed_removed_and_made_again() -> Result<()> {
    let home = without_templates()?;
    ensure!(
        says(&home, &["template", "ls", "--json"])?.trim() == "[]"
            && says(&home, &["template", "rm", "--all"])?.is_empty()
    );
    ensure!(entries(&home).is_empty(), "looking makes nothing");

    // What is pulled is ready to run.
    says(&home, &["pull", BUSYBOX])?;
    let made = template(&home)?;
    let key = made.file_name().and_then(|name| name.to_str()).context("a key")?.to_owned();
    let inode = fs::metadata(made.join("memory"))?.ino();
    runs_quietly(&home)?;
    ensure!(fs::metadata(template(&home)?.join("memory"))?.ino() == inode, "the run made another one");
    let listed: Value = serde_json::from_str(&says(&home, &["template", "ls", "--json"])?)?;
    ensure!(listed[0]["key"] == *key && listed[0]["cpus"] == 1 && listed[0]["memory_mb"] == 512, "{listed:#}");
    ensure!(listed[0]["disks"] == 2 && listed[0]["current"] == true && listed[1].is_null(), "{listed:#}");
    let table = says(&home, &["template", "ls"])?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    ensure!(rows[0].join(" ") == "KEY CPUS MEMORY DISKS ACCELERATOR QEMU SIZE USED CURRENT", "{table}");
    ensure!(
        rows.len() == 2 && rows[1][..5] == [&*key, "1", "512", "MB", "2"] && rows[1].ends_with(&["yes"]),
        "{table}"
    );

    // One whose content has changed is told, although its time was put back.
    let memory = open(&made.join("memory"))?;
    let before = memory.metadata()?.modified()?;
    let middle = 1 << 20;
    let mut byte = [0];
    memory.read_exact_at(&mut byte, middle)?;
    memory.write_all_at(&[byte[0] ^ 8], middle)?;
    memory.set_modified(before)?;
    let line = runs_with_one_line(&home)?;
    ensure!(line.contains("is damaged: memory has changed: it is made again"), "{line}");
    ensure!(template(&home)? == made);
    runs_quietly(&home)?;

    let unknown = home.matchlock(["template", "rm", &key[1..]]).run()?.exits_with(1)?;
    ensure!(unknown.stderr() == format!("template {:?} not found\n", &key[1..]), "{unknown}");
    home.matchlock(["template", "rm"]).run()?.exits_with(1)?;
    ensure!(says(&home, &["template", "rm", &key])? == format!("Removed {key}\n") && entries(&home).is_empty());
    fs::create_dir(home.cache().templates().join("0".repeat(32)))?;
    let refreshed = says(&home, &["template", "refresh"])?;
    ensure!(refreshed == format!("Removed {}\nMade {key}\n", "0".repeat(32)), "{refreshed}");

    ensure!(says(&home, &["prune"])? == "Pruned 0 VMs\n");
    let month = Duration::from_hours(30 * 24);
    open(&made.join("template.json"))?.set_modified(SystemTime::now() - month)?;
    ensure!(says(&home, &["prune"])? == "Pruned 0 VMs\nPruned 1 templates\n" && entries(&home).is_empty());
    Ok(())
}

#[test]
fn nothing_is_removed_from_under_a_start() -> Result<()> {
    let home = without_templates()?;
    let start = run(&home, &["true"]).spawn()?;
    until(&start, "a begun template", || entries(&home).pop())?;
    fs::create_dir(home.cache().templates().join("0".repeat(32)))?;
    let pruned = home.matchlock(["prune"]).run()?.success()?;
    ensure!(
        pruned.stdout() == "Pruned 0 VMs\n" && pruned.stderr().starts_with("a sandbox is being started"),
        "{pruned}"
    );
    let output = start.wait()?.success()?;
    ensure!(complaints(&output).is_empty(), "{output}");
    ensure!(says(&home, &["prune"])? == "Pruned 0 VMs\nPruned 1 templates\n");
    template(&home).map(drop)
}

#[test]
fn two_that_need_the_same_template_make_one() -> Result<()> {
    let home = without_templates()?;
    let start = || run(&home, &["echo", "hello"]).env("MATCHLOCK_LOG_LEVEL", "debug").spawn();
    let mut makers = 0;
    for output in [start()?, start()?].map(Running::wait) {
        let output = output?.success()?;
        ensure!(output.stdout() == "hello\n" && !output.stderr().contains("starting cold"), "{output}");
        makers += output.stderr().matches("memory=Written").count();
    }
    ensure!(makers == 1, "{makers} guests were saved");
    template(&home).map(drop)
}

/// Does this folder show that the moment has come?
type Reached = fn(&Path) -> bool;

/// What a file of a template takes up on the disk.
fn size(template: &Path, name: &str) -> u64 {
    fs::metadata(template.join(name)).map_or(0, |file| file.blocks())
}

#[test]
fn killed_while_it_makes_a_template() -> Result<()> {
    let home = without_templates()?;
    let moments: [(&str, Reached); 4] = [
        ("a begun template", |_| true),
        ("a guest that boots", |path| size(path, "memory") > 0),
        ("a saved state", |path| size(path, "state") > 0),
        ("a recipe", |path| size(path, "template.json") > 0),
    ];
    // What the one before left is there until the next one begins.
    let start_until = |what, reached: Reached| -> Result<Running> {
        let left = entries(&home);
        let start = run(&home, &["true"]).spawn()?;
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
    let (what, reached) = moments[1];
    let start = start_until(what, reached)?;
    start.signal(Signal::INT)?;
    start.wait()?.exits_with(130)?;
    ensure!(entries(&home).is_empty(), "{:?}", entries(&home));
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
    let matchlock = run(&home, &["echo", "hello"]).command()?;
    let script = "mount -t tmpfs -o size=8m tmpfs \"$PLACE\" && \"$@\"; status=$?; ls -A \"$PLACE\"; exit $status";
    let mut command = tool("unshare", "util-linux")?;
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(matchlock.get_program()).args(matchlock.get_args());
    let output = command.env("HOME", home.path()).env("PLACE", home.cache().templates()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("using software emulation")).collect();
    ensure!(output.status.success() && output.stdout == b"hello\n.lock\n", "{output:?}");
    ensure!(lines == ["starting cold: write the template: no storage space"], "{output:?}");
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

#[test]
fn a_running_sandbox_does_without_its_template() -> Result<()> {
    let home = without_templates()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    says(&home, &["template", "rm", "--all"])?;
    ensure!(entries(&home).is_empty() && sandbox.sh("echo $((6 * 7)); ls /bin | head -n 1")?.starts_with("42"));
    Ok(())
}
