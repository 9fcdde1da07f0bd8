//! `xtask bench`: what the release binary does on this machine, as ratios measured in one run; `xtask bench net`, what its network
//! does (`net/`).
//!
//! Each measure is alternated with what it is compared to, so that a noisy machine disturbs both alike. The home it
//! uses is `target/bench-home`; nothing of the caller's is touched.

mod document;
mod floor;
mod home;
mod import;
mod many;
pub(crate) mod net;
mod row;
mod start;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use matchlock_sandbox::GuestFiles;

use self::{document::Section, floor::Floor, home::Home};

/// What to measure, and how often.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Samples of a start, and of the bare restore that it is compared to
    #[arg(long, default_value_t = 100)]
    runs: usize,
    /// Samples of a start with a sealed network, an open one and none
    #[arg(long, default_value_t = 40)]
    networks: usize,
    /// Samples of a cold start
    #[arg(long, default_value_t = 15)]
    colds: usize,
    /// Samples of a start with a spare waiting, of either kind
    #[arg(long, default_value_t = 30)]
    spares: usize,
    /// Samples of the first start in an empty home
    #[arg(long, default_value_t = 3)]
    firsts: usize,
    /// Samples of an exec in a running sandbox
    #[arg(long, default_value_t = 200)]
    execs: usize,
    /// Samples of an import
    #[arg(long, default_value_t = 3)]
    imports: usize,
    /// 1,000 starts in a row and 100 idle sandboxes instead of 120 and 10
    #[arg(long)]
    long: bool,
    /// Starts one after another that all have to succeed
    #[arg(long)]
    starts: Option<usize>,
    /// Idle sandboxes at once
    #[arg(long)]
    idle: Option<usize>,
    /// Sandboxes started at the same moment that all have to succeed
    #[arg(long, default_value_t = 20)]
    at_once: usize,
    /// The program to measure, instead of the release binary as it is built now
    #[arg(long)]
    program: Option<PathBuf>,
    /// Only print; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

#[derive(clap::Subcommand)]
enum Other {
    /// Measure the network of a sandbox, beside nginx and mitmproxy, and write that section instead
    Net(net::Args),
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if let Some(Other::Net(args)) = &args.other {
        return net::run(root, args);
    }
    let program = args.program.clone().map_or_else(|| build(root), |program| Ok(fs::canonicalize(program)?))?;
    let home = Home::furnished(&root.join("target/bench-home"), &program)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let files = runtime.block_on(home.host().prepare())?;
    let (starts, idle) = if args.long { (1000, 100) } else { (120, 10) };
    let mut report = Section::begin("Sandboxes", &format!("Machine: {}", machine(Some(&files))?));
    // None of a measure means not to make it.
    if args.runs > 0 || args.spares > 0 {
        let floor = Floor::new(root, home.path(), &home.host(), &files, home.image()?)?;
        report.add(args.runs, "start", || start::restored(&home, &floor, args.runs));
        report.add(args.spares, "start with a spare waiting", || start::adopted(&home, &floor, args.spares));
    }
    report.add(args.networks, "start with a network", || start::connected(&home, args.networks));
    report.add(args.colds, "cold start", || start::cold(&home, &files, &runtime, args.colds));
    report.add(args.firsts, "first start", || start::first(&home, args.firsts));
    report.add(args.execs, "exec", || many::by_the_program(&home, args.execs));
    let starts = args.starts.unwrap_or(starts);
    report.add(starts, "starts one after another", || many::in_a_row(&home, starts));
    report.add(args.at_once, "starts at the same moment", || many::at_once(&home, args.at_once));
    let idle = args.idle.unwrap_or(idle);
    report.add(idle, "idle sandboxes", || many::idle(&home, idle));
    report.add(args.imports, "import", || import::import(&home, args.imports));
    report.end(root, args.dry)
}

/// The release binary.
fn build(root: &Path) -> Result<PathBuf> {
    build_release(root, "matchlock-cli", "matchlock")
}

/// A program of this workspace, built as it is released.
fn build_release(root: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", package])
        .current_dir(root)
        .status()
        .context("run cargo")?;
    ensure!(built.success(), "the release binary does not build");
    Ok(root.join("target/release").join(program))
}

/// Of a kernel's release, what says nothing about whose machine it runs on.
fn version_number(release: &str) -> &str {
    release.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default()
}

/// The machine, and what a guest has of it, if there are guests.
fn machine(guest: Option<&GuestFiles>) -> Result<String> {
    let field = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        Ok(line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned()))
    };
    let cores = std::thread::available_parallelism()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let machine = format!(
        "{} × {cores}, {} of memory, Linux {}",
        field("/proc/cpuinfo", "model name")?,
        field("/proc/meminfo", "MemTotal")?,
        version_number(&release),
    );
    let Some(guest) = guest else { return Ok(machine) };
    let kvm = match matchlock_sandbox::vmm::kvm() {
        Ok(()) => "KVM".to_owned(),
        Err(reason) => format!("software emulation ({reason})"),
    };
    Ok(format!("{machine}, QEMU {}, guest Linux {}, {kvm}", guest.vmm.version(), guest.version))
}

#[cfg(test)]
mod tests {
    use super::version_number;

    #[test]
    fn a_report_does_not_say_whose_machine_it_is_from() {
        assert_eq!(version_number("6.1.0-56-cloud-amd64\n"), "6.1.0");
        assert_eq!(version_number("6.18.44-built-here+\n"), "6.18.44");
    }
}
