//! Many sandboxes, one after the other and at once: do all of them come up, and does anything stay of them?

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use matchlock_sandbox::bench::{Samples, memory_of};
use matchlock_testkit::{run, tool};
use serde_json::Value;

use super::{
    home::{Home, IMAGE, TRUE},
    row::Row,
};

const MIB: u64 = 1024 * 1024;

/// Starts after which what is kept on purpose has reached its bound: records of the last hundred sandboxes.
const SETTLED: usize = 110;

/// Each may be larger by so much afterwards: the system's own doings, in memory and in open files; a database's unused
/// pages, on the disk.
const MEMORY_SLACK_MIB: u64 = 64;
const FILES_SLACK: u64 = 64;
const DISK_SLACK: u64 = MIB;

/// Most memory of one idle sandbox.
const IDLE_MIB: u64 = 60;

/// What starts could leave behind.
struct Held {
    /// Memory that is neither free, nor reclaimable, nor a running program's own. What a program has for itself goes with it, and
    /// other programs of this host may take more or less of it meanwhile: what counts is what nobody would give back.
    memory: u64,
    /// Programs that run for this home.
    processes: usize,
    files: u64,
    disk: u64,
    /// In both databases.
    rows: u64,
}

impl Held {
    fn now(home: &Home) -> Result<Self> {
        let open = fs::read_to_string("/proc/sys/fs/file-nr")?;
        let open = open.split_ascii_whitespace().next().context("a number in file-nr")?;
        let (state, cache) = (home.host().state, home.host().cache);
        Ok(Self {
            memory: (meminfo("MemTotal")? - available()?).saturating_sub(meminfo("AnonPages")?),
            processes: processes(home.path())?,
            files: open.parse()?,
            disk: taken(state.root())? + taken(cache.root())?,
            rows: rows(&state.database())? + rows(&cache.image_database())?,
        })
    }
}

/// Starts one after another.
pub(super) fn in_a_row(home: &Home, starts: usize) -> Result<Vec<Row>> {
    let count = |starts| (0..starts).filter(|_| home.time(&TRUE).is_ok()).count();
    let settled = count(starts.min(SETTLED));
    let before = Held::now(home)?;
    let succeeded = settled + count(starts - starts.min(SETTLED));
    let after = Held::now(home)?;

    let memory = after.memory.saturating_sub(before.memory) / MIB;
    let processes = after.processes.saturating_sub(before.processes);
    let files = after.files.saturating_sub(before.files);
    let disk = after.disk.saturating_sub(before.disk);
    let rows = after.rows.saturating_sub(before.rows);
    let none = memory <= MEMORY_SLACK_MIB && processes == 0 && files <= FILES_SLACK && disk <= DISK_SLACK && rows == 0;
    let what = format!(
        "growth from start {} to {starts}: memory that no program has and nobody gives back, processes, open files, disk, rows \
         of databases",
        starts.min(SETTLED)
    );
    let goal = format!(
        "none (within {MEMORY_SLACK_MIB} MiB, 0 processes, {FILES_SLACK} files, {} MiB, 0 rows)",
        DISK_SLACK / MIB
    );
    let figure = format!("{memory} MiB, {processes} processes, {files} files, {} KiB, {rows} rows", disk / 1024);
    Ok(vec![
        Row::new(
            format!("{starts} starts one after another"),
            &format!("{starts} exit 0"),
            format_args!("{succeeded} exit 0"),
            "",
            succeeded == starts,
        ),
        Row::new(what, &goal, figure, "", none),
    ])
}

/// Sandboxes started at the same moment.
pub(super) fn at_once(home: &Home, starts: usize) -> Result<Vec<Row>> {
    let begin = Instant::now();
    let children: Vec<_> = (0..starts).map(|_| home.command(&TRUE).spawn()).collect::<Result<_, _>>()?;
    let mut succeeded = 0;
    for mut child in children {
        succeeded += usize::from(child.wait()?.success());
    }
    let took = begin.elapsed().as_millis();
    ensure!(home.succeed(&["list"])?.lines().count() == 1, "something is left of {starts} sandboxes");
    Ok(vec![Row::new(
        format!("{starts} sandboxes started at the same moment"),
        &format!("{starts} exit 0"),
        format_args!("{succeeded} exit 0"),
        &format!("all within {took} ms"),
        succeeded == starts,
    )])
}

/// Sandboxes that wait, all at once.
pub(super) fn idle(home: &Home, count: usize) -> Result<Vec<Row>> {
    let before = available()?;
    let mut started = Ok(());
    let mut ids = Vec::new();
    for _ in 0..count {
        match home.succeed(&["run", "--detach", "--entrypoint=", "--image", IMAGE]) {
            Ok(id) => ids.push(id.trim().to_owned()),
            Err(error) => {
                started = Err(error);
                break;
            }
        }
    }
    let looked = started.and_then(|()| {
        let answered = ids.iter().filter(|id| home.time(&["exec", id, "true"]).is_ok()).count();
        // After they have all done something.
        let taken = before.saturating_sub(available()?) / MIB / count.max(1) as u64;
        let memory = ids.iter().map(|id| proportional(home, id)).collect::<Result<Vec<_>>>()?;
        Ok((answered, taken, Samples::new(memory).context("no sandboxes")?))
    });
    home.succeed(&["kill", "--all"])?;
    home.succeed(&[&["rm"][..], &ids.iter().map(String::as_str).collect::<Vec<_>>()].concat())?;
    let (answered, taken, memory) = looked?;
    let largest = memory.percentile(100) / MIB;
    Ok(vec![
        Row::new(
            format!("{count} idle sandboxes at once, each answering an `exec`"),
            &format!("{count} answer"),
            format_args!("{answered} answer"),
            "",
            answered == count,
        ),
        Row::new(
            "memory of each of them, after that",
            &format!("≤ {IDLE_MIB} MiB"),
            format_args!("{} MiB", memory.percentile(50) / MIB),
            &format!(
                "its processes, shared pages in proportion; the largest {largest} MiB; the host has {taken} MiB less for each"
            ),
            largest <= IDLE_MIB && taken <= IDLE_MIB,
        ),
    ])
}

/// What the program itself measures on a user's machine.
pub(super) fn by_the_program(home: &Home, runs: usize) -> Result<Vec<Row>> {
    let runs_flag = format!("--runs={runs}");
    let mut bench = home.command(&["bench", "start", "--json", &runs_flag, "--image", IMAGE]);
    let child: Child = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "bench start: {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| found["exec"][name].as_f64().with_context(|| format!("{name} in {found}"));
    let (p50, p90, p99) = (number("p50_ms")?, number("p90_ms")?, number("p99_ms")?);
    Ok(vec![Row::new(
        "`exec <id> true` in a running sandbox, whole process",
        "p50 ≤ 30 ms",
        format_args!("p50 {p50} ms"),
        &format!("p90 {p90} ms, p99 {p99} ms; {runs} runs, by `matchlock bench start`"),
        p50 <= 30.0,
    )])
}

fn proportional(home: &Home, id: &str) -> Result<u64> {
    let record: Value = serde_json::from_str(&home.succeed(&["get", id])?)?;
    Ok(memory_of(&[record["pid"].as_u64().context("a supervisor")?.try_into()?])?)
}

/// Bytes that the system could give to programs without swapping.
fn available() -> Result<u64> {
    meminfo("MemAvailable")
}

/// A number of bytes in `proc_meminfo(5)`.
fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(value.with_context(|| name.to_owned())?.parse::<u64>()? * 1024)
}

/// How many processes have this home in their environment or, as a VMM, which has none, in their command line.
fn processes(home: &Path) -> Result<usize> {
    let home = home.as_os_str().as_encoded_bytes();
    let names_it = |path: &Path| {
        // It may have ended meanwhile, or be the system's.
        let text = fs::read(path).unwrap_or_default();
        text.windows(home.len()).any(|part| part == home)
    };
    let mut count = 0;
    for process in fs::read_dir("/proc")? {
        let folder = process?.path();
        count += usize::from(["environ", "cmdline"].iter().any(|name| names_it(&folder.join(name))));
    }
    Ok(count)
}

/// Rows of all tables of a database.
fn rows(database: &Path) -> Result<u64> {
    let ask = |sql: &str| run(tool("sqlite3", "sqlite3")?.args(["-cmd", ".timeout 10000"]).arg(database).arg(sql));
    let tables = ask("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    let counts = tables.lines().map(|table| format!("(SELECT count(*) FROM \"{table}\")")).collect::<Vec<_>>();
    ensure!(!counts.is_empty(), "{} has no tables", database.display());
    Ok(ask(&format!("SELECT {}", counts.join(" + ")))?.trim().parse()?)
}

/// Bytes that a folder takes up on its disk.
fn taken(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::symlink_metadata(path)?;
    let mut bytes = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += taken(&entry?.path())?;
        }
    }
    Ok(bytes)
}
