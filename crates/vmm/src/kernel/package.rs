//! The distribution's kernel, taken out of its package: no root, nothing installed, nothing compiled.
//!
//! `apt-get download` works for every user and checks the package against the signed lists of the distribution, so
//! what arrives is what the distribution made; nothing is checked here a second time. Invariant: everything happens
//! below the staging folder that the caller throws away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Found, host::release_of};
use crate::command::run;

/// For one run of apt: some 30 MB over a slow line.
const FETCH_DEADLINE: Duration = Duration::from_mins(5);
/// For unpacking a package.
const UNPACK_DEADLINE: Duration = Duration::from_mins(2);
/// How long apt waits for a silent server.
const APT_PATIENCE: [&str; 6] =
    ["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30", "-o", "Acquire::Retries=1"];

/// Fetch and unpack the kernel package below `staging`.
pub(super) fn fetch(staging: &Path) -> io::Result<Found> {
    let always_newest = metapackage(&fs::read_to_string("/etc/os-release").unwrap_or_default())?;
    let apt = Apt { dir: staging.join("apt"), own_lists: false };
    fs::create_dir_all(&apt.dir)?;
    // The system's package lists may be missing or older than the archive; then a private copy of them is fetched.
    let release = apt.download(always_newest).or_else(|_| {
        let apt = Apt { dir: apt.dir.clone(), own_lists: true };
        apt.update()?;
        apt.download(always_newest)
    })?;
    let root = staging.join("root");
    for package in fs::read_dir(&apt.dir)? {
        let package = package?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root), UNPACK_DEADLINE)?;
        }
    }
    let modules = [root.join("lib/modules"), root.join("usr/lib/modules")].into_iter().find(|dir| dir.is_dir());
    Ok(Found {
        image: root.join("boot").join(format!("vmlinuz-{release}")),
        modules: modules.map(|dir| dir.join(&release)),
        version: release,
    })
}

/// The package that always depends on the newest kernel for virtual machines.
fn metapackage(os_release: &str) -> io::Result<&'static str> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let family = format!("{} {}", value("ID"), value("ID_LIKE"));
    let is = |name| family.split_ascii_whitespace().any(|word| word == name);
    match () {
        () if is("ubuntu") => Ok("linux-image-virtual"),
        () if is("debian") => Ok("linux-image-cloud-amd64"),
        () => Err(io::Error::new(io::ErrorKind::Unsupported, "only known for Debian and Ubuntu")),
    }
}

struct Apt {
    dir: PathBuf,
    /// Use package lists below `dir` instead of the system's.
    own_lists: bool,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).args(APT_PATIENCE);
        if self.own_lists {
            command.arg("-o").arg(format!("Dir::State::lists={}", self.dir.join("lists").display()));
            command.arg("-o").arg(format!("Dir::Cache={}", self.dir.join("cache").display()));
        }
        command
    }

    fn update(&self) -> io::Result<()> {
        for needed in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.dir.join(needed))?;
        }
        run(self.command("apt-get").arg("update"), FETCH_DEADLINE).map(drop)
    }

    /// Download the kernel's packages; returns the kernel's release.
    fn download(&self, always_newest: &str) -> io::Result<String> {
        let depends = run(self.command("apt-cache").args(["depends", always_newest]), FETCH_DEADLINE);
        let release = release_in(always_newest, depends)?;
        let get = |package: String| run(self.command("apt-get").args(["download", &package]), FETCH_DEADLINE);
        get(format!("linux-image-{release}"))?;
        // Ubuntu keeps modules apart, the rarer ones apart again; Debian has neither package.
        for part in ["linux-modules", "linux-modules-extra"] {
            let package = format!("{part}-{release}");
            if run(self.command("apt-cache").args(["show", &package]), FETCH_DEADLINE).is_ok() {
                get(package)?;
            }
        }
        Ok(release)
    }
}

/// The release that a package depends on, by what `apt-cache depends` has said of it.
fn release_in(package: &str, depends: io::Result<String>) -> io::Result<String> {
    let none = |why: String| {
        let reason = format!("no package archive that offers {package} can be reached{why}");
        io::Error::new(io::ErrorKind::NotFound, reason)
    };
    let depends = depends.map_err(|e| none(format!(": {e}")))?;
    newest_release(&depends).ok_or_else(|| none(String::new()))
}

/// The release in the first `Depends: linux-image-<release>` of `apt-cache depends`.
fn newest_release(depends: &str) -> Option<String> {
    let names = depends.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
    names.filter_map(|name| name.strip_prefix("linux-image-")).find_map(release_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metapackage_follows_the_distribution() {
        assert_eq!(metapackage("NAME=x\nID=debian\n").unwrap(), "linux-image-cloud-amd64");
        assert_eq!(metapackage("ID=ubuntu\nID_LIKE=debian\n").unwrap(), "linux-image-virtual");
        assert_eq!(metapackage("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").unwrap(), "linux-image-virtual");
        assert!(metapackage("ID=fedora\n").is_err());
        assert!(metapackage("").is_err());
    }

    #[test]
    fn without_a_release_it_is_told_why() {
        let full = Err(io::Error::other("apt-cache: E: Write error - write (28: No space left on device)"));
        let told =
            [full, Ok(String::new())].map(|depends| release_in("linux-image-x", depends).unwrap_err().to_string());
        assert_eq!(
            told,
            [
                "no package archive that offers linux-image-x can be reached: apt-cache: E: Write error - write (28: No space left on device)",
                "no package archive that offers linux-image-x can be reached",
            ]
        );
    }

    #[test]
    fn the_release_is_that_of_the_first_image() {
        let debian = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(newest_release(debian).unwrap(), "6.1.0-56-cloud-amd64");
        let ubuntu =
            "linux-image-virtual\n  Depends: linux-base\n |Depends: linux-image-6.8.0-31-generic\n  Depends: x\n";
        assert_eq!(newest_release(ubuntu).unwrap(), "6.8.0-31-generic");
        for none in ["", "linux-image-x\n", "  Depends: linux-image-../../etc\n", "  Depends: linux-image-\n"] {
            assert_eq!(newest_release(none), None, "{none}");
        }
    }
}
