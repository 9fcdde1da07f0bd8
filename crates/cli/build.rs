//! Tells the program which commit it is built from, and for which target.

use std::process::Command;

fn main() {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        // A source archive has no history.
        _ => "unknown".to_owned(),
    };
    println!("cargo::rustc-env=MATCHLOCK_COMMIT={commit}");
    println!("cargo::rustc-env=MATCHLOCK_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-changed=../../.git/logs/HEAD");
}
