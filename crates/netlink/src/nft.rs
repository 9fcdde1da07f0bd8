//! nft(8) at work. It may get rights that the caller does not have, those of this program's file, so nothing of the caller's
//! decides what runs with them: neither `PATH` nor any other variable.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
};
use thiserror::Error;

/// Where administrators' programs are. Only administrators put any there; an ordinary user's `PATH` often leaves them out anyway.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/run/current-system/sw/bin"];

/// Rules on their way into force, as one transaction. It goes by names of links, so these need not exist.
#[derive(Debug)]
pub struct Nft(Child);

/// Why they are not in force.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no `nft` where it is looked for.
    #[error("the program nft is missing: install the package nftables")]
    Missing,
    /// It would not have them; its first line.
    #[error("nft refused the rules of the sandbox's network: {0}")]
    Refused(String),
    /// It cannot be talked to.
    #[error("run nft")]
    Run(#[source] io::Error),
}

impl Nft {
    /// Tell `nft` what to do in the namespace of the calling thread.
    ///
    /// # Errors
    /// If it is missing or cannot be started.
    pub fn start(script: &str) -> Result<Self, NftError> {
        let mut nft = command(&find().ok_or(NftError::Missing)?);
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = passing_on_rights(|| nft.spawn()).map_err(NftError::Run)?;
        // A pipe holds far more than any of our scripts.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
        match written {
            // It went away without reading, and has said why.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(NftError::Run(e)),
            _ => Ok(Self(child)),
        }
    }

    /// Wait until it is done.
    ///
    /// # Errors
    /// If it has refused.
    pub fn done(self) -> Result<(), NftError> {
        let output = self.0.wait_with_output().map_err(NftError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(NftError::Refused(said.lines().next().unwrap_or("it did not say why").to_owned()))
    }
}

/// Rights that this program's file has are not its children's, unless they are said to be (capabilities(7), "ambient"). They are
/// those of the calling thread, for as long as it starts one.
fn passing_on_rights<T>(start: impl FnOnce() -> T) -> T {
    let right = CapabilitySet::NET_ADMIN;
    let Some(own) = capabilities(None).ok().filter(|own| own.permitted.contains(right)) else { return start() };
    let more = CapabilitySets { inheritable: own.inheritable | right, ..own };
    // Without it `nft` says what it was refused.
    let passed = set_capabilities(None, more).and_then(|()| configure_capability_in_ambient_set(right, true)).is_ok();
    let started = start();
    if passed {
        let _ = configure_capability_in_ambient_set(right, false);
    }
    let _ = set_capabilities(None, own);
    started
}

fn find() -> Option<PathBuf> {
    FOLDERS.map(|folder| Path::new(folder).join("nft")).into_iter().find(|program| program.is_file())
}

/// A variable such as `LD_PRELOAD` would put the caller's code into it: rights that are passed on are none for which the loader is
/// careful (ld.so(8), "secure-execution mode"). `LC_ALL=C` has it speak as it is compared with here.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/");
    command
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn nothing_of_the_callers_decides_what_runs() {
        let folder = tempfile::tempdir().unwrap();
        let (program, ran) = (folder.path().join("nft"), folder.path().join("ran"));
        fs::write(&program, format!("#!/bin/sh\n: > {}\n", ran.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut caller = Command::new(std::env::current_exe().unwrap());
        caller.args(["--exact", "nft::tests::as_a_caller_with_variables", "--ignored"]);
        let output = caller.env("PATH", folder.path()).env("LD_PRELOAD", "/nowhere/callers.so").output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        assert!(!ran.exists(), "the caller's own nft ran");
    }

    #[test]
    #[ignore = "is started by the one above, which says in which environment"]
    fn as_a_caller_with_variables() {
        // Whether there is an `nft`, and what it says of no rules, does not matter.
        let _ = Nft::start("").and_then(Nft::done);
        let output = command(Path::new("/usr/bin/env")).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "LC_ALL=C\n");
    }
}
