//! Chores of the project: `cargo xtask tidy | bench | guest`.

#![expect(clippy::print_stdout, reason = "a program for people")]

mod bench;
mod guest;
mod tidy;

use std::path::{Path, PathBuf};

use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Chore {
    /// Check what the compiler does not: layers, module docs, file sizes, links between documents
    Tidy,
    /// Build the guest binary and show that it is static and how large it is
    Guest,
    /// Measure the release binary on this machine and write docs/benchmarks.md
    Bench(bench::Args),
    /// Be the gateway that is measured
    #[command(hide = true)]
    Gateway(bench::net::Gateway),
    /// Be the holder of its namespace
    #[command(hide = true)]
    Holder { pid_file: PathBuf },
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Tidy => tidy::check(&root()),
        Chore::Guest => guest::build(&root()),
        Chore::Bench(args) => bench::run(&root(), &args),
        Chore::Gateway(gateway) => gateway.run(),
        Chore::Holder { pid_file } => bench::net::hold(&pid_file),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
