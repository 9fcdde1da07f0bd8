//! nft(8) at work. `LC_ALL=C` has it speak as it is compared with here.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use thiserror::Error;

/// Rules on their way into force, as one transaction. It goes by names of links, so these need not exist.
#[derive(Debug)]
pub struct Nft(Child);

/// Why they are not in force.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no `nft`.
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
        let mut child = Command::new(find().ok_or(NftError::Missing)?)
            .args(["-f", "-"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(NftError::Run)?;
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

/// An ordinary user's `PATH` often leaves administrators' programs out.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual).map(|folder| folder.join("nft"));
    places.find(|program| program.is_file())
}
