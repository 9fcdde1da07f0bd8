//! `xtask guest`: the binary that goes into every virtual machine.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Bytes that it may have: it is read, and translated by the emulator, at every start.
const MAX_SIZE: u64 = 2 * 1024 * 1024;

/// Build it as `crates/vmm` embeds it, check that it needs nothing of the image it runs in, and show its size.
pub(crate) fn build(root: &Path) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--profile", "guest", "--package", "matchlock-guest", "--target", "x86_64-unknown-linux-gnu"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .env("CARGO_TARGET_DIR", root.join("target/guest"))
        .current_dir(root)
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "the guest does not build");
    let path = root.join("target/guest/x86_64-unknown-linux-gnu/guest/matchlock-guest");
    let binary = fs::read(&path).with_context(|| path.display().to_string())?;
    ensure!(!has_interpreter(&binary), "{} is not static", path.display());
    let size = binary.len() as u64;
    println!("{} {} KiB, static", path.display(), size.div_ceil(1024));
    ensure!(size <= MAX_SIZE, "the guest has grown over {MAX_SIZE} bytes");
    Ok(())
}

/// Does an ELF file name a dynamic loader (`PT_INTERP`, System V ABI, "Program Header")?
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| elf.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    let u32_at = |at: usize| elf.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let headers = elf.get(32..40).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let headers = usize::try_from(headers).unwrap_or(usize::MAX / 2);
    let (size, count) = (usize::from(u16_at(54)), usize::from(u16_at(56)));
    (0..count).any(|index| u32_at(headers + index * size) == PT_INTERP)
}
