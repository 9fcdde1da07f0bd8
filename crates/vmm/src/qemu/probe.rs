//! Which QEMU this host has, and what it can do. Found out once for each binary and remembered.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::QemuError;
use crate::{
    cache::{Folder, read_bounded, stamp_of},
    command::run,
    kernel::Transport,
};

const PROGRAM: &str = "qemu-system-x86_64";
const REMEMBERED: &str = "qemu.json";

/// Each question takes QEMU some 20 ms.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bound on what is remembered.
const MAX_JSON: u64 = 64 * 1024;

/// Which machine type is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Board {
    /// No PCI, no legacy devices: the least for guest and host to deal with.
    Microvm,
    /// For builds of QEMU that leave `microvm` out.
    Q35,
}

impl Board {
    /// How its devices are attached.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Microvm => Transport::Mmio,
            Self::Q35 => Transport::Pci,
        }
    }
}

/// What was found out about a QEMU binary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) board: Board,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    binary: PathBuf,
    stamp: (u64, i128),
    facts: Facts,
}

/// The binary, looked up in `PATH`.
pub(super) fn binary() -> Result<PathBuf, QemuError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|file| file.is_file()).ok_or(QemuError::NotInstalled)
}

/// What is remembered of this binary, or else what it answers now.
pub(super) fn facts(binary: &Path, cache_dir: &Path) -> Result<Facts, QemuError> {
    let failed = |e| QemuError::Probe(binary.to_owned(), e);
    let stamp = stamp_of(binary).map_err(failed)?;
    let text = read_bounded(&cache_dir.join(REMEMBERED), MAX_JSON).ok();
    let remembered = text.and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = remembered.filter(|known| known.binary == binary && known.stamp == stamp) {
        return Ok(known.facts);
    }
    let facts = ask(binary).map_err(failed)?;
    let remembered = Remembered { binary: binary.to_owned(), stamp, facts: facts.clone() };
    if let Err(e) = remember(cache_dir, &remembered) {
        tracing::debug!("cannot remember what QEMU can do: {e}");
    }
    Ok(facts)
}

fn remember(cache_dir: &Path, value: &Remembered) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    Folder::lock(cache_dir)?.publish(REMEMBERED, |file| file.write_all(&text)).map(drop)
}

fn ask(binary: &Path) -> io::Result<Facts> {
    let version = run(Command::new(binary).arg("--version"), DEADLINE)?;
    let machines = run(Command::new(binary).args(["-machine", "help"]), DEADLINE)?;
    Ok(Facts { version: version_in(&version), board: board_in(&machines) })
}

fn version_in(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("QEMU emulator version ").to_owned()
}

fn board_in(machines: &str) -> Board {
    let has_microvm = machines.lines().any(|line| line.split_ascii_whitespace().next() == Some("microvm"));
    if has_microvm { Board::Microvm } else { Board::Q35 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let version = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022\n";
        assert_eq!(version_in(version), "7.2.22 (Debian 1:7.2+dfsg-7)");
        let machines = "Supported machines are:\nmicrovm              microvm (i386)\npc  Standard PC\n";
        assert_eq!(board_in(machines), Board::Microvm);
        assert_eq!(board_in("Supported machines are:\nq35  like microvm\n"), Board::Q35);
    }

    #[test]
    fn a_binary_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("qemu");
        let script = "#!/bin/sh\necho x >> \"$0.calls\"\necho QEMU emulator version 9.1\n";
        std::fs::write(&fake, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let first = facts(&fake, &dir.path().join("cache")).unwrap();
        assert_eq!(first, facts(&fake, &dir.path().join("cache")).unwrap());
        assert_eq!(first, Facts { version: "9.1".into(), board: Board::Q35 });
        let calls = std::fs::read_to_string(dir.path().join("qemu.calls")).unwrap();
        assert_eq!(calls.lines().count(), 2);
    }
}
