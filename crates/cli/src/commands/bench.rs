//! `matchlock bench`: what a user waits for, and what a sandbox takes up, on this machine and with this image.
//!
//! This program is started as a process for each sample, as a user starts it. Invariant: whatever happens, the sandboxes
//! that were started for a measurement are ended and removed.

use std::{
    ffi::{OsStr, OsString},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use matchlock_model::{ExitStatus, printable};
use matchlock_sandbox::{
    bench::{Samples, memory_of},
    store::Action,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{get, image};
use crate::{env::Environment, error::CliError, output, parse, signals::Signals};

/// Sandboxes whose memory is measured: they share pages, so one alone would seem larger than each of many.
const IDLE: usize = 4;

const PERCENTILES: [usize; 3] = [50, 90, 99];

const MIB: u64 = 1024 * 1024;

/// Characters that are shown of what a failed program said last.
const MAX_LINE: usize = 400;

/// The benchmark verbs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Measure starting a sandbox, a command in a running one, and the memory of an idle one
    Start(Args),
}

/// Flags of `bench start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Samples of each time
    #[arg(long, default_value_t = 20, value_parser = parse::whole::<u32>("samples"), value_name = "N", allow_negative_numbers = true)]
    runs: u32,
    /// Image reference or local tag (default: the image that came last)
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The command to run (default: true)
    command: Vec<OsString>,
}

/// What was found.
struct Measured {
    start: Samples<Duration>,
    exec: Samples<Duration>,
    memory: Samples<u64>,
}

pub(crate) async fn bench(verb: Verb, environment: &Environment) -> Result<ExitStatus, CliError> {
    let Verb::Start(args) = verb;
    if args.runs == 0 {
        return Err(CliError::failure("--runs must be at least 1"));
    }
    let image = args.image.as_ref().map_or_else(|| latest_image(environment), |typed| Ok(typed.clone()))?;
    // Nothing that is done only once is to be measured: it is fetched now.
    image::resolve(&image, false, environment).await?;
    let command = if args.command.is_empty() { vec!["true".into()] } else { args.command };
    let signals = Signals::take().map_err(CliError::io("take signals"))?;
    let mut bench =
        Bench { image, command, runs: args.runs, environment, signals, interrupted: None, idle: Vec::new() };
    let measured = bench.measure().await;
    let ended = bench.end_idle().await;
    let measured = measured?;
    ended?;
    let shown = if args.json { output::json(&bench.document(&measured)) } else { measured.show() };
    shown.map(|()| ExitStatus::SUCCESS)
}

/// The image that was added last.
fn latest_image(environment: &Environment) -> Result<String, CliError> {
    let images = image::cache(environment)?.list().map_err(CliError::plain)?;
    let latest = images.into_iter().max_by_key(|saved| saved.created_at);
    let none = || CliError::failure("no image is here: name one with --image");
    latest.map(|saved| saved.image.tag).ok_or_else(none)
}

/// A benchmark under way.
struct Bench<'a> {
    image: String,
    command: Vec<OsString>,
    runs: u32,
    environment: &'a Environment,
    signals: Signals,
    interrupted: Option<u8>,
    /// Sandboxes that run, to be ended.
    idle: Vec<String>,
}

impl Bench<'_> {
    async fn measure(&mut self) -> Result<Measured, CliError> {
        let run = words(&["run", "--image", &self.image, "--"], &self.command);
        // The first one may have to save a guest. What it has to say, such as that it cannot, holds for all.
        let first = self.program(&run).await?;
        String::from_utf8_lossy(&first.stderr).lines().for_each(output::note);
        let start = self.times(&run).await?;
        for _ in 0..IDLE {
            // Without a command, not even the image's own.
            let idle = words(&["run", "--detach", "--entrypoint=", "--image", &self.image], &[]);
            let id = self.program(&idle).await?.stdout;
            self.idle.push(String::from_utf8_lossy(&id).trim().to_owned());
        }
        let memory = self.idle.iter().map(|id| self.memory(id)).collect::<Result<_, _>>()?;
        let exec = words(&["exec", &self.idle[0], "--"], &self.command);
        self.program(&exec).await?;
        let exec = self.times(&exec).await?;
        let none = || CliError::failure("nothing was measured");
        Ok(Measured { start, exec, memory: Samples::new(memory).ok_or_else(none)? })
    }

    async fn times(&mut self, arguments: &[OsString]) -> Result<Samples<Duration>, CliError> {
        let mut times = Vec::new();
        for _ in 0..self.runs {
            let begin = Instant::now();
            self.program(arguments).await?;
            times.push(begin.elapsed());
        }
        Samples::new(times).ok_or_else(|| CliError::failure("nothing was measured"))
    }

    /// Run this program; an error if it fails, or if a signal has asked to end, which it is told, too.
    async fn program(&mut self, arguments: &[OsString]) -> Result<Output, CliError> {
        if let Some(number) = self.interrupted {
            return Err(interrupted(number));
        }
        let verb = arguments.first().map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
        let child = start(arguments).map_err(CliError::io(&verb))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let ended = child.wait_with_output();
        tokio::pin!(ended);
        tokio::select! {
            // First, because a terminal's signal is for the program as well, which may have ended of it already.
            biased;
            number = self.signals.next() => {
                if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(i32::from(number))) {
                    // It may have ended meanwhile.
                    let _ = kill_process(pid, signal);
                }
                self.interrupted = Some(number);
                let output = ended.await.map_err(CliError::io(&verb))?;
                // What it has done nevertheless, such as leave a sandbox running, is to be known.
                if output.status.success() { Ok(output) } else { Err(interrupted(number)) }
            }
            output = &mut ended => checked(&verb, output.map_err(CliError::io(&verb))?),
        }
    }

    /// Bytes that a sandbox takes up: its supervisor's and its VMM's, which is no child of that if it was a spare.
    fn memory(&self, id: &str) -> Result<u64, CliError> {
        let sandbox = get::find(id, self.environment)?;
        let owed = self.environment.host()?.sandboxes()?.owed(&sandbox.id)?;
        let machines = owed.iter().filter_map(|owed| match &owed.action {
            Action::EndProcess { process } => Some(process.pid),
            _ => None,
        });
        let processes = sandbox.owner.iter().map(|owner| owner.pid).chain(machines);
        let processes: Vec<_> = processes.filter_map(|pid| u32::try_from(pid).ok()).collect();
        memory_of(&processes).map_err(CliError::io("measure memory"))
    }

    async fn end_idle(&mut self) -> Result<(), CliError> {
        if self.idle.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = self.idle.drain(..).map(OsString::from).collect();
        for verb in ["kill", "rm"] {
            let child = start(&words(&[verb], &ids)).map_err(CliError::io(verb))?;
            checked(verb, child.wait_with_output().await.map_err(CliError::io(verb))?)?;
        }
        Ok(())
    }

    fn document(&self, measured: &Measured) -> Value {
        let times = |samples: &Samples<Duration>| fields("ms", |percent| milliseconds(samples.percentile(percent)));
        let command: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        json!({
            "image": self.image,
            "command": command,
            "runs": self.runs,
            "start": times(&measured.start),
            "exec": times(&measured.exec),
            "idle_sandbox": fields("mib", |percent| mebibytes(measured.memory.percentile(percent))),
            "idle_sandboxes": IDLE,
        })
    }
}

impl Measured {
    fn show(&self) -> Result<(), CliError> {
        let row = |what: &str, value: &dyn Fn(usize) -> String| {
            [what.to_owned()].into_iter().chain(PERCENTILES.map(value)).collect()
        };
        let time =
            |samples: &Samples<Duration>, percent| format!("{:.1} ms", milliseconds(samples.percentile(percent)));
        output::table(
            &["WHAT", "P50", "P90", "P99"],
            &[
                row("start a sandbox, run a command, exit", &|percent| time(&self.start, percent)),
                row("exec in a running sandbox", &|percent| time(&self.exec, percent)),
                row("memory of an idle sandbox", &|percent| {
                    format!("{:.1} MiB", mebibytes(self.memory.percentile(percent)))
                }),
            ],
        )
    }
}

fn interrupted(number: u8) -> CliError {
    CliError::with_status(ExitStatus::Interrupted(number), "bench: interrupted")
}

/// This program with these arguments, and no input.
fn start(arguments: &[OsString]) -> std::io::Result<tokio::process::Child> {
    // Not by its path, which may have been replaced since.
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

fn checked(verb: &str, output: Output) -> Result<Output, CliError> {
    if output.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = errors.lines().rev().find(|line| !line.trim().is_empty());
    let said = said.map_or_else(|| output.status.to_string(), |line| printable(line, MAX_LINE));
    Err(CliError::failure(format!("{verb}: {said}")))
}

fn words(fixed: &[impl AsRef<OsStr>], rest: &[OsString]) -> Vec<OsString> {
    fixed.iter().map(|word| word.as_ref().to_owned()).chain(rest.iter().cloned()).collect()
}

/// Each percentile under a name that ends with its unit.
fn fields(unit: &str, value: impl Fn(usize) -> f64) -> Value {
    PERCENTILES.iter().map(|percent| (format!("p{percent}_{unit}"), json!(value(*percent)))).collect()
}

/// To a tenth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// To a tenth.
fn mebibytes(bytes: u64) -> f64 {
    let tenths = u32::try_from(bytes.saturating_mul(10) / MIB).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}
