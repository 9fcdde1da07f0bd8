//! Several users on one host. Root is needed to be several; nothing that they run is.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{Home, images, run, tool};
use matchlock_tests::{BUSYBOX, only_as_root};

const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;

/// A user with a home, kernels and a folder for temporary files.
struct User {
    uid: u32,
    home: Home,
}

impl User {
    fn new(uid: u32) -> Result<Self> {
        let home = Home::new()?;
        // What tests share is root's; a user has copies.
        let kernels = home.cache().kernels();
        home.matchlock(["kernel", "pull"]).run()?.success()?;
        let shared = fs::canonicalize(&kernels)?;
        fs::remove_dir_all(home.cache().root())?;
        fs::create_dir_all(home.cache().root())?;
        run(tool("cp", "coreutils")?.arg("-a").args([&shared, &kernels]))?;
        fs::create_dir(home.path().join("tmp"))?;
        fs::copy(images::busybox()?, home.path().join("busybox.tar"))?;
        run(tool("chown", "coreutils")?.arg("-R").arg(format!("{uid}:{uid}")).arg(home.path()))?;
        Ok(Self { uid, home })
    }

    fn run(&self, program: impl AsRef<Path>) -> Result<Command> {
        let id = self.uid;
        let mut command = tool("setpriv", "util-linux")?;
        command.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups", "--no-new-privs"]);
        command.arg(program.as_ref()).current_dir(self.home.path());
        command.env("HOME", self.home.path()).env("TMPDIR", self.home.path().join("tmp"));
        Ok(command)
    }

    fn matchlock(&self, arguments: &[&str]) -> Result<Output> {
        let program = self.home.matchlock(arguments).command()?.get_program().to_owned();
        Ok(self.run(Path::new(&program))?.args(arguments).output()?)
    }

    fn says(&self, arguments: &[&str]) -> Result<String> {
        let output = self.matchlock(arguments)?;
        ensure!(output.status.success(), "user {}: {arguments:?}: {output:?}", self.uid);
        Ok(String::from_utf8(output.stdout)?)
    }

    fn import(&self) -> Result<()> {
        let program = self.home.matchlock(["image"]).command()?.get_program().to_owned();
        let mut command = self.run(Path::new(&program))?;
        command.args(["image", "import", BUSYBOX]).stdin(fs::File::open(self.home.path().join("busybox.tar"))?);
        run(&mut command).map(drop)
    }

    fn starts_one(&self) -> Result<String> {
        let id = self.says(&["run", "-d", "--image", BUSYBOX, "--", "sleep", "1000"])?;
        Ok(id.trim_end().to_owned())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Whatever a story left running; what then is still there, the home finds.
        let _ = self.matchlock(&["kill", "--all"]);
        let _ = self.matchlock(&["prune"]);
    }
}

#[test]
fn everything_works_without_root_and_users_do_not_meet() -> Result<()> {
    if !only_as_root("be several users") {
        return Ok(());
    }
    let (alice, bob) = (User::new(ALICE)?, User::new(BOB)?);
    alice.import()?;
    bob.import()?;
    // The first start makes what later ones use, here by a process whose memory is its own.
    let id = ["run", "--image", BUSYBOX, "--secret", "KEY=hunter2@x.test", "--", "id", "-u"];
    ensure!(alice.says(&id)? == "0\n", "root in the guest, and only there");

    // Of memory that its supervisor shows to root only.
    let measured = alice.says(&["bench", "start", "--runs", "1", "--json"])?;
    ensure!(measured.contains("\"idle_sandbox\""), "{measured}");

    let hers = alice.starts_one()?;
    let his = bob.starts_one()?;
    ensure!(alice.says(&["exec", &hers, "--", "echo", "hers"])? == "hers\n");
    ensure!(bob.says(&["exec", &his, "--", "echo", "his"])? == "his\n");
    let (list_a, list_b) = (alice.says(&["list"])?, bob.says(&["list"])?);
    ensure!(list_a.contains(&hers) && !list_a.contains(&his) && list_a.lines().count() == 2, "{list_a}");
    ensure!(list_b.contains(&his) && !list_b.contains(&hers) && list_b.lines().count() == 2, "{list_b}");
    for arguments in [&["kill", &hers][..], &["exec", &hers, "--", "true"], &["rm", &hers], &["get", &hers]] {
        ensure!(bob.matchlock(arguments)?.status.code() == Some(1), "bob: {arguments:?}");
    }
    ensure!(bob.says(&["kill", "--all"])? == format!("Killed {his}\n"));
    ensure!(bob.says(&["gc", "--force-running"])?.ends_with("Reconciled 1 VMs\n"));
    ensure!(alice.says(&["exec", &hers, "--", "echo", "still here"])? == "still here\n");

    others_cannot_reach(&alice, &bob, &hers)?;
    ensure!(alice.says(&["kill", &hers])? == format!("Killed {hers}\n"));
    ensure!(alice.says(&["prune"])?.ends_with("Pruned 1 VMs\n"));
    ensure!(bob.says(&["prune"])?.ends_with("Pruned 1 VMs\n"));
    alice.home.assert_nothing_left()?;
    bob.home.assert_nothing_left()
}

/// The socket and the state are their owner's, by their modes, even if the home is open to everybody.
fn others_cannot_reach(alice: &User, bob: &User, hers: &str) -> Result<()> {
    fs::set_permissions(alice.home.path(), fs::Permissions::from_mode(0o755))?;
    let folder = alice.home.state().vms().join(hers);
    let socket = folder.join("exec.sock");
    UnixStream::connect(&socket).context("its owner, and root, can")?;
    let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let connect = bob.run("/usr/bin/python3")?.args(["-c", script]).arg(&socket).output()?;
    ensure!(String::from_utf8_lossy(&connect.stderr).contains("PermissionError"), "{connect:?}");

    let mut open = vec![alice.home.state().root().to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let allowed = if metadata.is_dir() { 0o700 } else { 0o600 };
        let mode = metadata.mode() & 0o777;
        ensure!(mode == allowed && metadata.uid() == ALICE, "{} has mode {mode:o}", path.display());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
    }
    Ok(())
}
