//! Sandboxes that continue one saved guest: of one shape, and otherwise strangers to each other. And where the saved guests
//! come from and go to.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, IoSliceMut},
    net::TcpListener,
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Compression, ImageSpec, LayerTar, Running, busybox_layer};
use matchlock_tests::{
    BUSYBOX, DEBIAN, Sandbox, busybox, complaints, debian, import,
    templates::{entries, open, run_in_busybox, runs_quietly, runs_with_one_line, says, template, without_templates},
    until,
};
use rustix::{
    io::{ReadWriteFlags, preadv2},
    process::Signal,
};
use serde_json::{Value, json};

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
fn a_start_leaves_the_image_in_the_hosts_memory() -> Result<()> {
    let home = debian()?;
    let start = || home.matchlock(["run", "--image", DEBIAN, "--", "true"]).run()?.success();
    start()?;
    let blobs = fs::read_dir(home.cache().images().join("blobs"))?.collect::<Result<Vec<_>, _>>()?;
    let image = File::open(blobs.first().filter(|_| blobs.len() == 1).context("one image")?.path())?;
    // What is not on the disk yet would stay in memory in any case.
    image.sync_all()?;
    io::copy(&mut &image, &mut io::sink())?;
    start()?;
    let size = image.metadata()?.len();
    let in_memory = |at| {
        let mut byte = [0];
        preadv2(&image, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT).is_ok()
    };
    let found = (0..100).filter(|part| in_memory(size / 100 * part)).count();
    ensure!(found >= 90, "{found} of 100 parts of the image are in memory");
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
    run_in_busybox(&home, &["test", "-e", "/etc/machine-id"]).run()?.exits_with(1)?;
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
fn a_template_is_made_while_the_image_is_on_its_way() -> Result<()> {
    let home = without_templates()?;
    // It takes connections and says nothing.
    let registry = TcpListener::bind("127.0.0.1:0")?;
    let image = format!("localhost:{}/image", registry.local_addr()?.port());
    let start = home.matchlock(["run", "--image", &image, "--", "true"]).spawn()?;
    until(&start, "a template", || template(&home).ok())?;
    start.signal(Signal::INT)?;
    start.wait()?.exits_with(130)?;
    runs_quietly(&home)?;

    // That there is no such image is said at once.
    drop(registry);
    says(&home, &["template", "rm", "--all"])?;
    let output = home.matchlock(["run", "--image", &image, "--", "true"]).run()?.exits_with(1)?;
    ensure!(output.stderr().starts_with("building rootfs: ") && template(&home).is_err(), "{output}");
    Ok(())
}

#[test]
fn nothing_is_removed_from_under_a_start() -> Result<()> {
    let home = without_templates()?;
    let start = run_in_busybox(&home, &["true"]).spawn()?;
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
    let start = || run_in_busybox(&home, &["echo", "hello"]).env("MATCHLOCK_LOG_LEVEL", "debug").spawn();
    let mut makers = 0;
    for output in [start()?, start()?].map(Running::wait) {
        let output = output?.success()?;
        ensure!(output.stdout() == "hello\n" && !output.stderr().contains("starting cold"), "{output}");
        makers += output.stderr().matches("memory=Written").count();
    }
    ensure!(makers == 1, "{makers} guests were saved");
    template(&home).map(drop)
}

#[test]
fn a_running_sandbox_does_without_its_template() -> Result<()> {
    let home = without_templates()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[])?;
    says(&home, &["template", "rm", "--all"])?;
    ensure!(entries(&home).is_empty() && sandbox.sh("echo $((6 * 7)); ls /bin | head -n 1")?.starts_with("42"));
    Ok(())
}
