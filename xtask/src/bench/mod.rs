//! `xtask bench`: what the release binary does on this machine, as ratios measured in one run.
//!
//! Each measure is alternated with what it is compared to, so that a noisy machine disturbs both alike. The home it
//! uses is `target/bench-home`; nothing of the caller's is touched.

mod import;
mod sample;
mod start;

use std::{fmt::Write, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use matchlock_sandbox::Host;

use sample::Home;

/// What to measure, and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Samples of a cold start
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Samples of an exec in a running sandbox
    #[arg(long, default_value_t = 200)]
    execs: usize,
    /// Samples of an import
    #[arg(long, default_value_t = 3)]
    imports: usize,
    /// Cold starts one after another that all have to succeed
    #[arg(long, default_value_t = 100)]
    starts: usize,
    /// Sandboxes started at the same moment that all have to succeed
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    /// Only print; leave docs/benchmarks.md as it is
    #[arg(long)]
    dry: bool,
}

/// One line of the report.
struct Row {
    what: String,
    goal: String,
    measured: String,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "matchlock-cli"])
        .current_dir(root)
        .status()
        .context("run cargo")?;
    ensure!(built.success(), "the release binary does not build");
    let home = Home::new(&root.join("target/bench-home"), &root.join("target/release/matchlock"))?;
    let mut rows = Vec::new();
    rows.push(start::cold(&home, args.runs)?);
    rows.push(start::exec(&home, args.execs)?);
    rows.extend(import::import(&home, args.imports)?);
    rows.push(start::in_a_row(&home, args.starts));
    rows.push(start::at_once(&home, args.at_once)?);
    let report = report(&home, &rows)?;
    print!("{report}");
    if !args.dry {
        fs::write(root.join("docs/benchmarks.md"), report).context("write docs/benchmarks.md")?;
    }
    Ok(())
}

fn report(home: &Home, rows: &[Row]) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench`. Compare the ratios; the times are one machine's.\n\n",
    );
    writeln!(text, "Machine: {}\n", machine(home)?)?;
    text.push_str("| what | goal | measured |\n|---|---|---|\n");
    for Row { what, goal, measured } in rows {
        writeln!(text, "| {what} | {goal} | {measured} |")?;
    }
    Ok(text)
}

/// Of a kernel's release, what says nothing about whose machine it runs on.
fn version_number(release: &str) -> &str {
    release.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default()
}

fn machine(home: &Home) -> Result<String> {
    let field = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        Ok(line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned()))
    };
    let host = Host::new(home.path(), None);
    let guest = tokio::runtime::Builder::new_current_thread().build()?.block_on(host.prepare())?;
    let cores = std::thread::available_parallelism()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kvm = match matchlock_sandbox::vmm::kvm() {
        Ok(()) => "KVM".to_owned(),
        Err(reason) => format!("software emulation ({reason})"),
    };
    Ok(format!(
        "{} × {cores}, {} of memory, Linux {}, QEMU {}, guest Linux {}, {kvm}",
        field("/proc/cpuinfo", "model name")?,
        field("/proc/meminfo", "MemTotal")?,
        version_number(&release),
        guest.vmm.version(),
        guest.version,
    ))
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
