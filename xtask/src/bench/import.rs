//! Importing an image against unpacking it with umoci.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::{images, run, tool};

use super::{
    home::Home,
    row::{Row, ratio, samples, shown},
};

const TAG: &str = "bench/import";

/// Time and peak memory of `image import`, and the time of `umoci unpack` of the same image.
pub(super) fn import(home: &Home, runs: usize) -> Result<Vec<Row>> {
    let archive = images::debian_with_tools()?;
    let megabytes = fs::metadata(&archive)?.len() / 1_000_000;
    let layout = home.path().join("oci");
    let (from, to) = (format!("docker-archive:{}", archive.display()), format!("oci:{}:bench", layout.display()));
    if !layout.exists() {
        // Layers as they are in the archive, so that neither side has to decompress.
        run(tool("skopeo", "skopeo")?.args(["copy", "--quiet", "--dest-decompress", &from, &to]))?;
    }
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let (took, memory) = import_once(home, &archive)?;
        ours.push(took);
        peak = peak.max(memory);
        theirs.push(unpack_once(home, &layout)?);
    }
    let (ours, theirs) = (samples(ours)?, samples(theirs)?);
    let ratio = ratio(50, &theirs, &ours);
    let details = format!("{}; umoci {}; {runs} runs each", shown(&ours), shown(&theirs));
    let what = format!("`image import` of a {megabytes} MB `docker save` archive against `umoci unpack` of the same");
    Ok(vec![
        Row::new(what, "≥ 2× as fast", format_args!("{ratio:.1}×"), &details, ratio >= 2.0),
        Row::new("its peak memory", "≤ 150 MB", format_args!("{peak} MB"), "", peak <= 150),
    ])
}

/// Time, and peak resident memory in MB.
fn import_once(home: &Home, archive: &Path) -> Result<(Duration, u64)> {
    // Absent the first time.
    let _ = home.succeed(&["image", "rm", TAG]);
    let report = home.path().join("time");
    let mut timed = tool("time", "time")?;
    timed.args(["--format=%M", "--output"]).arg(&report);
    let import = home.command(&["image", "import", TAG]);
    timed.arg(import.get_program()).args(import.get_args()).env("HOME", home.path());
    timed.stdin(File::open(archive)?).stdout(std::process::Stdio::null());
    let begin = Instant::now();
    let status = timed.status()?;
    let took = begin.elapsed();
    ensure!(status.success(), "import: {status}");
    let kilobytes: u64 = fs::read_to_string(report)?.trim().parse().context("peak memory")?;
    Ok((took, kilobytes / 1000))
}

fn unpack_once(home: &Home, layout: &Path) -> Result<Duration> {
    let bundle: PathBuf = home.path().join("bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    let mut umoci: Command = tool("umoci", "umoci")?;
    umoci.args(["unpack", "--rootless", "--image"]).arg(format!("{}:bench", layout.display())).arg(&bundle);
    let begin = Instant::now();
    run(&mut umoci)?;
    let took = begin.elapsed();
    fs::remove_dir_all(&bundle)?;
    Ok(took)
}
