//! A program that serves while this lives.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// Until a program has said that it serves. mitmproxy takes seconds.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Length of a tick in `proc_pid_stat(5)`.
const TICK: Duration = Duration::from_millis(10);

/// The program. It ends when this is dropped.
pub(super) struct Program(Child);

/// Where a program says that it serves.
#[derive(Clone, Copy)]
pub(super) enum Says {
    Stdout,
    Stderr,
}

impl Program {
    /// Start it, and wait for the first line that has `ready` in it, which is the other value.
    pub(super) fn start(command: &mut Command, says: Says, ready: &'static str) -> Result<(Self, String)> {
        command.stdin(Stdio::piped());
        match says {
            Says::Stdout => command.stdout(Stdio::piped()),
            Says::Stderr => command.stderr(Stdio::piped()).stdout(Stdio::null()),
        };
        let mut program = Self(command.spawn().with_context(|| format!("start {command:?}"))?);
        let output: Box<dyn Read + Send> = match says {
            Says::Stdout => Box::new(program.0.stdout.take().context("piped")?),
            Says::Stderr => Box::new(program.0.stderr.take().context("piped")?),
        };
        let (tell, told) = mpsc::channel();
        // Read to its end, or the program would wait for a reader some day.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any longer.
                let _ = tell.send(line);
            }
        });
        let mut said = String::new();
        loop {
            let line = told.recv_timeout(READY_DEADLINE);
            let line = line.with_context(|| format!("{command:?} does not serve; it said: {said}"))?;
            if line.contains(ready) {
                return Ok((program, line));
            }
            said = format!("{said} {line}");
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Processor time that it has used.
    pub(super) fn used(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields: Vec<_> = stat.rsplit_once(')').context("a name in stat")?.1.split_ascii_whitespace().collect();
        ensure!(fields.len() > 12, "stat has too few fields");
        Ok(TICK * (fields[11].parse::<u32>()? + fields[12].parse::<u32>()?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
