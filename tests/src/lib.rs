//! What the stories in `tests/tests` share. Each is a session with the real program and real virtual machines; the
//! names of the tests say what a user relies on.

pub mod corpus;
pub mod templates;
mod watch;

use anyhow::{Result, ensure};
use matchlock_testkit::{Home, ImageSpec, Matchlock, OciLayout, Output, Running, images};

pub use watch::{Family, Process, hold_database, logged, machine_of, query, sandbox_folder, until};

/// What the stories call the Debian image.
pub const DEBIAN: &str = "debian:test";

/// What they call the image of one static program with the usual names of a shell.
pub const BUSYBOX: &str = "busybox:test";

/// What they call the Debian image with the clients of the network.
pub const CLIENTS: &str = "clients:test";

/// A home with the Debian image.
///
/// # Errors
/// The image cannot be made or imported.
pub fn debian() -> Result<Home> {
    Home::with_image(DEBIAN, &images::debian()?)
}

/// A home with the busybox image.
///
/// # Errors
/// The image cannot be made or imported.
pub fn busybox() -> Result<Home> {
    Home::with_image(BUSYBOX, &images::busybox()?)
}

/// A home with the image that has the clients of the network.
///
/// # Errors
/// The image cannot be made or imported.
pub fn clients() -> Result<Home> {
    Home::with_image(CLIENTS, &images::debian_with_clients()?)
}

/// Fetch what [`clients`] and its sandboxes need of the real network, for stories that are told where there is none.
///
/// # Errors
/// It cannot be had.
pub fn fetch_for_clients() -> Result<()> {
    clients()?.matchlock(["kernel", "pull"]).run()?.success().map(drop)
}

/// Import an image that a story has made up.
///
/// # Errors
/// The import fails.
pub fn import(home: &Home, tag: &str, image: &ImageSpec) -> Result<()> {
    let archive = OciLayout::of(image)?.to_tar()?;
    home.matchlock(["image", "import", tag]).stdin(archive).run()?.success().map(drop)
}

/// What a command said on standard error, other than that this machine has no KVM.
#[must_use]
pub fn complaints(output: &Output) -> String {
    let text = output.stderr();
    text.split_inclusive('\n').filter(|line| !line.starts_with("using software emulation: ")).collect()
}

/// Is this root? If not, what only root can do is skipped, and the test says so.
#[must_use]
#[expect(clippy::print_stdout, reason = "the test runner shows it")]
pub fn only_as_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can {what}");
    }
    root
}

/// A sandbox in the background (`run --detach`). Dropped, it is killed and removed.
#[derive(Debug)]
pub struct Sandbox<'home> {
    home: &'home Home,
    id: String,
}

impl<'home> Sandbox<'home> {
    /// Start one that does nothing but wait for `exec`.
    ///
    /// # Errors
    /// It does not come up.
    pub fn idle(home: &'home Home, image: &str, flags: &[&str]) -> Result<Self> {
        Self::start(home, &[&["--image", image], flags, &["--", "sleep", "infinity"]].concat())
    }

    /// Start one with these arguments of `run`.
    ///
    /// # Errors
    /// It does not come up, or something else than its id is printed.
    pub fn start(home: &'home Home, arguments: &[&str]) -> Result<Self> {
        let said = home.matchlock([&["run", "--detach"], arguments].concat()).run()?.success()?;
        let id = said.stdout().trim_end().to_owned();
        ensure!(id.starts_with("vm-") && id.len() == 11 && said.stdout() == format!("{id}\n"), "{said}");
        Ok(Self { home, id })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A command in it, which may begin with flags of `exec`: those before a word `--`.
    #[must_use]
    pub fn exec(&self, command: &[&str]) -> Matchlock {
        let (flags, command) = match command.iter().position(|word| *word == "--") {
            Some(at) => (&command[..at], &command[at + 1..]),
            None => (&[][..], command),
        };
        self.home.matchlock([&["exec"], flags, &[&self.id, "--"], command].concat())
    }

    /// What a shell script in it prints, if it succeeds; without the space around it.
    ///
    /// # Errors
    /// It fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(&["sh", "-c", script]).run()?.success()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A command, already at work, that ends when the process in the sandbox does whose number stands in `/tmp/pid`.
    /// It needs an image with Python.
    ///
    /// # Errors
    /// There is no such process.
    pub fn watch(&self) -> Result<Running> {
        let mut watcher = self.exec(&["python3", "-c", WATCH]).spawn()?;
        watcher.expect_stdout("watching\n")?;
        Ok(watcher)
    }
}

/// Ends when the process whose number stands in `/tmp/pid` does.
const WATCH: &str = "
import os, select
process = os.pidfd_open(int(open('/tmp/pid').read()))
print('watching', flush=True)
watch = select.poll()
watch.register(process, select.POLLIN)
watch.poll()
";

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // A story may have ended it itself; what is left of it, its home finds.
        for verb in ["kill", "rm"] {
            let _ = self.home.matchlock([verb, &self.id]).run();
        }
    }
}
