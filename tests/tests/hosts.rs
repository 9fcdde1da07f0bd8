//! Hosts that lack something: each lack is one line that says what to do, or is got over.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, Matchlock, Output, images, tool};
use matchlock_tests::{BUSYBOX, busybox, only_as_root, sandbox_folder};

fn run_true(home: &Home) -> Matchlock {
    home.matchlock(["run", "--image", BUSYBOX, "--", "true"])
}

/// The one line of a command that failed with 1.
fn one_line(output: Output) -> Result<String> {
    let output = output.exits_with(1)?;
    let errors = output.stderr();
    ensure!(output.stdout.is_empty() && errors.lines().count() == 1, "one line was expected: {output}");
    Ok(errors.trim_end().to_owned())
}

/// The only folder of a kernel.
fn kernel_of(home: &Home) -> Result<PathBuf> {
    let mut kernels = fs::read_dir(home.cache().kernels())?.flatten().map(|entry| entry.path());
    kernels.find(|path| path.join("kernel").is_file()).context("a kernel")
}

/// A home with the busybox image, and with kernels of its own.
fn with_own_kernel() -> Result<Home> {
    let home = busybox()?;
    let kernels = home.cache().kernels();
    let shared = fs::canonicalize(&kernels)?;
    home.matchlock(["kernel", "pull"]).run()?.success()?;
    fs::remove_file(&kernels)?;
    ensure!(tool("cp", "coreutils")?.args(["-a"]).args([&shared, &kernels]).status()?.success());
    Ok(home)
}

#[test]
fn no_home() -> Result<()> {
    let home = Home::empty()?;
    for value in ["", "relative/path"] {
        let line = one_line(home.matchlock(["list"]).env("HOME", value).run()?)?;
        ensure!(line.starts_with("HOME is not set to an absolute path"), "{line}");
    }
    let unset = home.matchlock(["list"]).command()?.env_remove("HOME").output()?;
    ensure!(unset.status.code() == Some(1) && unset.stderr.starts_with(b"HOME is not set"), "{unset:?}");
    Ok(())
}

#[test]
fn a_home_that_cannot_be_written() -> Result<()> {
    // Root may write where the mode forbids it, but not into what is no folder.
    let home = busybox()?;
    fs::write(home.state().root(), "a file is in the way")?;
    let line = one_line(run_true(&home).run()?)?;
    ensure!(line.contains(&home.state().root().display().to_string()), "{line}");
    fs::remove_file(home.state().root())?;

    let home = Home::empty()?;
    fs::write(home.path().join(".cache"), "a file is in the way")?;
    let line = one_line(run_true(&home).run()?)?;
    ensure!(line.contains(&home.cache().root().display().to_string()), "{line}");
    Ok(())
}

#[test]
fn a_home_that_is_read_only() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        let home = Home::empty()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o500))?;
        for command in [home.matchlock(["list"]), run_true(&home)] {
            let line = one_line(command.run()?)?;
            ensure!(line.contains(&home.path().display().to_string()) && line.contains("ermission denied"), "{line}");
        }
        return Ok(());
    }
    // Root needs a file system that is read-only.
    let home = Home::empty()?;
    for arguments in [&["list"][..], &["run", "--image", BUSYBOX, "--", "true"]] {
        let matchlock = home.matchlock(arguments).command()?;
        let script = "mount --bind \"$HOME\" \"$HOME\" && mount -o remount,bind,ro \"$HOME\" && exec \"$@\"";
        let mut command = tool("unshare", "util-linux")?;
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(matchlock.get_program()).args(matchlock.get_args());
        let output = command.env("HOME", home.path()).output()?;
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && line.lines().count() == 1, "{output:?}");
        ensure!(line.contains(&home.path().display().to_string()) && line.contains("Read-only file system"), "{line}");
    }
    Ok(())
}

#[test]
fn a_kernel_of_ones_own_that_is_none() -> Result<()> {
    let home = busybox()?;
    let text = home.path().join("notes.txt");
    fs::write(&text, "remember the milk\n")?;
    let folder = home.path().to_owned();
    for (path, why) in [
        (home.path().join("nowhere"), "No such file or directory"),
        (text, "neither a bzImage nor an x86-64 ELF kernel"),
        (folder, "directory"),
    ] {
        let line = one_line(run_true(&home).env("MATCHLOCK_KERNEL", &path).run()?)?;
        ensure!(
            line.contains("MATCHLOCK_KERNEL") && line.contains(&path.display().to_string()) && line.contains(why),
            "{line}"
        );
    }
    ensure!(sandbox_folder(&home).is_none());
    Ok(())
}

#[test]
fn a_damaged_kernel_is_replaced_and_a_deleted_one_fetched_again() -> Result<()> {
    let home = with_own_kernel()?;
    let kernel = kernel_of(&home)?.join("kernel");
    let sound = fs::read(&kernel)?;
    let mut file = fs::File::options().write(true).open(&kernel)?;
    file.seek(SeekFrom::Start(sound.len() as u64 / 2))?;
    file.write_all(&[!sound[sound.len() / 2]])?;
    drop(file);
    let output = home.matchlock(["kernel", "pull"]).run()?.success()?;
    ensure!(output.stderr().contains("damaged kernel"), "{output}");
    ensure!(fs::read(kernel_of(&home)?.join("kernel"))? == sound, "the damaged kernel is still there");

    fs::remove_dir_all(home.cache().kernels())?;
    run_true(&home).run()?.success()?;
    ensure!(fs::read(kernel_of(&home)?.join("kernel"))? == sound);
    Ok(())
}

#[test]
fn tidying_up_keeps_what_a_kernel_of_ones_own_needs() -> Result<()> {
    let home = with_own_kernel()?;
    // Other stories share theirs.
    fs::remove_file(home.cache().initramfs())?;
    let mine = home.path().join("mine");
    ensure!(tool("cp", "coreutils")?.arg("-a").args([&kernel_of(&home)?, &mine]).status()?.success());
    let module = fs::read_dir(mine.join("modules"))?.flatten().map(|entry| entry.path());
    let module = module.filter(|path| path.extension().is_some_and(|kind| kind == "ko")).min().context("a module")?;
    // Another module makes another initial file system.
    fs::File::options().append(true).open(module)?.write_all(&[0])?;
    let kernel = mine.join("kernel");
    let with_mine = |verbs: &[&str]| home.matchlock(verbs).env("MATCHLOCK_KERNEL", &kernel).run()?.success();
    let files = || -> Result<usize> {
        let entries = fs::read_dir(home.cache().initramfs())?.flatten().map(|entry| entry.path());
        Ok(entries.filter(|path| path.extension().is_some_and(|kind| kind == "cpio")).count())
    };
    home.matchlock(["kernel", "pull"]).run()?.success()?;
    with_mine(&["kernel", "pull"])?;
    ensure!(files()? == 2);
    with_mine(&["prune"])?;
    ensure!(files()? == 2, "one that is used was removed");
    home.matchlock(["prune"]).run()?.success()?;
    ensure!(files()? == 1 && kernel.exists() && kernel_of(&home).is_ok());
    Ok(())
}

#[test]
fn no_kernel_to_be_had() -> Result<()> {
    let home = busybox()?;
    fs::remove_file(home.cache().kernels())?;
    // Neither apt nor the host's own kernel: only QEMU is to be found.
    let path = programs(&home, &["qemu-system-x86_64", "mke2fs", "debugfs"])?;
    let output = run_true(&home).env("PATH", path).run()?;
    if fs::read_dir("/boot").is_ok_and(|mut boot| boot.any(|entry| entry.is_ok())) {
        println!("skipped: this host's own kernel may fit");
        return Ok(());
    }
    let line = one_line(output)?;
    ensure!(
        line.contains("MATCHLOCK_KERNEL") && line.contains(&home.cache().kernels().display().to_string()),
        "{line}"
    );
    Ok(())
}

/// A folder that has only these programs.
fn programs(home: &Home, names: &[&str]) -> Result<PathBuf> {
    let folder = home.path().join("programs");
    fs::create_dir(&folder)?;
    for name in names {
        let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|place| Path::new(place).join(name));
        let place = places.into_iter().find(|path| path.exists()).with_context(|| (*name).to_owned())?;
        symlink(place, folder.join(name))?;
    }
    Ok(folder)
}

#[test]
fn no_qemu_and_no_mke2fs() -> Result<()> {
    let home = busybox()?;
    let path = programs(&home, &["mke2fs", "debugfs"])?;
    let line = one_line(run_true(&home).env("PATH", &path).run()?)?;
    ensure!(line.contains("qemu-system-x86") && line.contains("install"), "{line}");

    if !only_as_root("hide mke2fs") {
        return Ok(());
    }
    // It is also looked for where administrators' programs are.
    let matchlock = run_true(&home).command()?;
    let mut command = tool("unshare", "util-linux")?;
    let script = "for file in /sbin/mke2fs /usr/sbin/mke2fs; do mount --bind /dev $(dirname $file); done; exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(matchlock.get_program()).args(matchlock.get_args());
    let output = command.env("HOME", home.path()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && errors.contains("e2fsprogs") && errors.lines().count() == 1,
        "{output:?}"
    );
    ensure!(sandbox_folder(&home).is_none());
    Ok(())
}

#[test]
fn a_long_way_home() -> Result<()> {
    let home = Home::empty()?;
    let far = home.path().join("long".repeat(30)).join("longer".repeat(20));
    fs::create_dir_all(far.join(".cache/matchlock"))?;
    // Kernels are the only thing that is not its own.
    symlink(fs::canonicalize(Home::new()?.cache().kernels())?, far.join(".cache/matchlock/kernels"))?;
    let at = |arguments: &[&str]| home.matchlock(arguments).env("HOME", &far);
    at(&["image", "import", BUSYBOX]).stdin_file(&images::busybox()?).run()?.success()?;
    let id = at(&["run", "-d", "--image", BUSYBOX, "--", "sleep", "1000"]).run()?.success()?.stdout();
    let hello = at(&["exec", id.trim_end(), "--", "echo", "hello"]).run()?;
    at(&["kill", "--all"]).run()?.success()?;
    at(&["prune"]).run()?.success()?;
    ensure!(hello.stdout() == "hello\n", "{hello}");
    Ok(())
}

#[test]
#[ignore = "long: eight virtual machines on one host"]
fn eight_at_once() -> Result<()> {
    let home = busybox()?;
    let all: Vec<_> = (0..8).map(|_| run_true(&home).spawn()).collect::<Result<_>>()?;
    for run in all {
        run.wait()?.success()?;
    }
    home.assert_nothing_left()
}
