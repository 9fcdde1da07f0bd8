//! Builds the guest's one binary, static, so that it can be embedded in the host's.
//!
//! `MATCHLOCK_GUEST_BINARY=<file>` at build time embeds that file instead: for packagers who build it themselves.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Static, and not position-independent: the guest relocates nothing at its start, which an emulator would do slowly.
const RUSTFLAGS: [&str; 4] = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];

/// Of the outer build's `CARGO_…` variables, those that describe the user's cargo and not the build that is under way.
const KEPT: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTRY_",
    "CARGO_REGISTRIES_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

fn main() -> ExitCode {
    match guest_binary() {
        Ok(binary) => {
            emit(&format!("cargo::rustc-env=MATCHLOCK_GUEST_BINARY_PATH={}", binary.display()));
            ExitCode::SUCCESS
        }
        Err(reason) => {
            emit(&format!("cargo::error={}", reason.replace('\n', "; ")));
            ExitCode::FAILURE
        }
    }
}

fn guest_binary() -> Result<PathBuf, String> {
    emit("cargo::rerun-if-env-changed=MATCHLOCK_GUEST_BINARY");
    if let Some(given) = env::var_os("MATCHLOCK_GUEST_BINARY") {
        let given = PathBuf::from(given);
        emit(&format!("cargo::rerun-if-changed={}", given.display()));
        return fs::canonicalize(&given).map_err(|e| format!("MATCHLOCK_GUEST_BINARY {}: {e}", given.display()));
    }
    // As it is now: this program may have been compiled where the tree lay before it was copied.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let workspace = package.join("../..");
    for source in ["crates/guest", "crates/wire", "crates/model", "crates/netlink", "Cargo.toml", "Cargo.lock"] {
        emit(&format!("cargo::rerun-if-changed={}", workspace.join(source).display()));
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    // Beside the profiles' folders, so that they share it: the guest is always built in the same way.
    let profile_dir = out_dir.ancestors().find(|dir| dir.ends_with("build")).and_then(Path::parent);
    let target_dir = profile_dir.and_then(Path::parent).unwrap_or(&out_dir).join("guest-target");
    build(&workspace, &target_dir)?;
    let binary = out_dir.join("matchlock-guest");
    let built = target_dir.join(TARGET).join("guest/matchlock-guest");
    fs::copy(&built, &binary).map_err(|e| format!("copy {}: {e}", built.display()))?;
    Ok(binary)
}

fn build(workspace: &Path, target_dir: &Path) -> Result<(), String> {
    let mut cargo = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        // Among these are clippy's and coverage tools' wrappers, which must not see the guest's build.
        let rustcs = text.starts_with("RUSTC") || text.starts_with("RUSTDOC") || text == "RUSTFLAGS";
        if cargos || rustcs {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(workspace)
        .args(["build", "--quiet", "--locked", "--package", "matchlock-guest", "--bin", "matchlock-guest"])
        .args(["--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"));
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("building the guest binary failed ({status}); its messages are above")),
        Err(e) => Err(format!("cannot run cargo for the guest binary: {e}")),
    }
}

/// Speak to cargo.
fn emit(line: &str) {
    println!("{line}");
}
