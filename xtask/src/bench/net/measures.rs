//! The measures: each is made in turns, so that a noisy machine disturbs all contestants alike.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use matchlock_sandbox::bench::Samples;

use super::{
    super::row::{Row, ratio, samples},
    client::{self, LARGE, Peer},
    program::Program,
    servers::SOURCE_LENGTH,
    world::{BESIDE, SOURCE, SOURCE_PORT},
};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// Clients that make new ones.
const CLIENTS: usize = 16;
/// Most memory with idle connections, in MB.
const IDLE_MB: u64 = 64;
/// What an upload is compared to, and by how much it may need more: what an allocator keeps.
const SHORT_UPLOAD: u64 = 64 << 20;
const UPLOAD_SLACK_KB: u64 = 2048;

/// Who is measured.
pub(super) struct Contestant {
    pub(super) peer: Peer,
    pub(super) process: Program,
}

/// All of them.
pub(super) struct Contest {
    pub(super) ours: Contestant,
    pub(super) nginx: Contestant,
    pub(super) mitmproxy: Contestant,
    /// What takes uploads, behind the gateway.
    pub(super) sink: Peer,
    pub(super) rounds: usize,
    pub(super) turn: Duration,
}

/// What came of a contestant's turns.
struct Turns {
    /// How often it did something in each.
    counts: Vec<u64>,
    /// Processor time in all of them.
    used: Duration,
}

impl Turns {
    const fn none() -> Self {
        Self { counts: Vec::new(), used: Duration::ZERO }
    }

    async fn take(&mut self, process: &Program, turn: impl Future<Output = Result<u64>>) -> Result<()> {
        let before = process.used()?;
        self.counts.push(turn.await?);
        self.used += process.used()?.saturating_sub(before);
        Ok(())
    }

    fn median(&self) -> Result<f64> {
        let median = Samples::new(self.counts.clone()).context("no rounds")?.percentile(50);
        Ok(f64::from(u32::try_from(median)?))
    }

    /// `1234 a second, 56 µs of the processor each`.
    fn shown(&self, turn: Duration) -> Result<String> {
        let each = self.used.as_micros() / u128::from(self.counts.iter().sum::<u64>().max(1));
        Ok(format!("{:.0} a second, {each} µs of the processor each", self.median()? / turn.as_secs_f64()))
    }
}

impl Contest {
    /// Small files over connections that are there.
    pub(super) async fn requests(&self) -> Result<Vec<Row>> {
        let all = [&self.ours, &self.nginx, &self.mitmproxy];
        let mut turns = [const { Turns::none() }; 3];
        for _ in 0..self.rounds {
            for (turns, Contestant { peer, process }) in turns.iter_mut().zip(all) {
                turns.take(process, peer.requests(CONNECTIONS, self.turn)).await?;
            }
        }
        let [ours, nginx, mitmproxy] = &turns;
        let what =
            format!("HTTPS GETs of 1 kB, intercepted, over {CONNECTIONS} connections that are kept, against nginx");
        let details = format!("{}; nginx {}; {}", ours.shown(self.turn)?, nginx.shown(self.turn)?, self.rounds());
        let rest = format!("mitmproxy {}", mitmproxy.shown(self.turn)?);
        Ok(vec![
            Row::at_least(what, 0.7, ours.median()? / nginx.median()?, &details),
            Row::at_least("the same against mitmproxy", 10.0, ours.median()? / mitmproxy.median()?, &rest),
        ])
    }

    /// One request after the other.
    pub(super) async fn latency(&self, requests: usize) -> Result<Vec<Row>> {
        let (mut ours, mut nginx) = (Vec::new(), Vec::new());
        let mut connections = [self.ours.peer.connections(1).await?, self.nginx.peer.connections(1).await?];
        for _ in 0..requests {
            for (times, connections) in [&mut ours, &mut nginx].into_iter().zip(&mut connections) {
                let begin = Instant::now();
                connections[0].get(client::SMALL).await?;
                times.push(begin.elapsed());
            }
        }
        let [ours, nginx] = [samples(ours)?, samples(nginx)?];
        let micros = |samples: &Samples<Duration>, percent| samples.percentile(percent).as_micros();
        let added = micros(&ours, 50).saturating_sub(micros(&nginx, 50));
        let shown = |samples| format!("p50 {} µs, p99 {} µs", micros(samples, 50), micros(samples, 99));
        Ok(vec![Row::new(
            "time that a GET takes longer than through nginx, p50, over one connection",
            "≤ 300 µs",
            format_args!("{added} µs"),
            &format!("{}; nginx {}; {requests} requests each", shown(&ours), shown(&nginx)),
            added <= 300,
        )])
    }

    /// New connections, with TLS and one small file.
    pub(super) async fn new_connections(&self) -> Result<Vec<Row>> {
        let (mut ours, mut nginx) = (Turns::none(), Turns::none());
        for _ in 0..self.rounds {
            for (turns, Contestant { peer, process }) in [(&mut ours, &self.ours), (&mut nginx, &self.nginx)] {
                turns.take(process, peer.new_connections(CLIENTS, self.turn)).await?;
            }
        }
        let what = format!("new TLS connections, one GET over each, by {CLIENTS} clients at once, against nginx");
        let details = format!("{}; nginx {}; {}", ours.shown(self.turn)?, nginx.shown(self.turn)?, self.rounds());
        Ok(vec![Row::at_least(what, 0.5, ours.median()? / nginx.median()?, &details)])
    }

    /// A large file over one connection.
    pub(super) async fn download(&self) -> Result<Vec<Row>> {
        let (mut ours, mut nginx) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            for (times, contestant) in [(&mut ours, &self.ours), (&mut nginx, &self.nginx)] {
                let mut connection = contestant.peer.connect().await?;
                let begin = Instant::now();
                connection.get(LARGE).await?;
                times.push(begin.elapsed());
            }
        }
        let [ours, nginx] = [samples(ours)?, samples(nginx)?];
        let details = format!("{}; nginx {}; {}", speed(LARGE.1, &ours), speed(LARGE.1, &nginx), self.rounds());
        let what = format!("download of {} MiB, intercepted, against nginx", LARGE.1 >> 20);
        Ok(vec![Row::at_least(what, 0.6, ratio(50, &nginx, &ours), &details)])
    }

    /// Bytes without TLS through an open network.
    pub(super) async fn open(&self) -> Result<Vec<Row>> {
        let (mut ours, mut direct) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            for (times, address) in [(&mut ours, SOURCE), (&mut direct, BESIDE)] {
                times.push(client::drain(address, SOURCE_PORT, SOURCE_LENGTH).await?);
            }
        }
        let [ours, direct] = [samples(ours)?, samples(direct)?];
        let (ours_shown, direct_shown) = (speed(SOURCE_LENGTH, &ours), speed(SOURCE_LENGTH, &direct));
        let details = format!("{ours_shown}; direct {direct_shown}; {}", self.rounds());
        let what =
            format!("{} GiB over TCP in an open network, against the same without a gateway", SOURCE_LENGTH >> 30);
        Ok(vec![Row::at_least(what, 0.6, ratio(50, &direct, &ours), &details)])
    }

    /// Memory with connections that wait for their next request.
    pub(super) async fn idle(&self, count: usize) -> Result<Vec<Row>> {
        let before = self.resident("VmRSS")? / 1000;
        let connections = self.ours.peer.connections(count).await?;
        let with = self.resident("VmRSS")? / 1000;
        drop(connections);
        Ok(vec![Row::new(
            format!("memory of the gateway's process with {count} idle intercepted connections"),
            &format!("≤ {IDLE_MB} MB"),
            format_args!("{with} MB"),
            &format!("resident; {before} MB before"),
            with <= IDLE_MB,
        )])
    }

    /// Growth by one long upload.
    pub(super) async fn upload(&self, gib: u64) -> Result<Vec<Row>> {
        let mut connection = self.sink.connect().await?;
        connection.put(SHORT_UPLOAD).await?;
        // Forget the peak until now (proc(5)).
        fs::write(format!("/proc/{}/clear_refs", self.ours.process.pid()), "5").context("forget the peak")?;
        let before = self.resident("VmRSS")?;
        let begin = Instant::now();
        connection.put(gib << 30).await?;
        let took = samples(vec![begin.elapsed()])?;
        let grown = self.resident("VmHWM")?.saturating_sub(before);
        Ok(vec![Row::new(
            format!("growth of its memory by one upload of {gib} GiB, at its peak"),
            &format!("none (within {UPLOAD_SLACK_KB} kB)"),
            format_args!("{grown} kB"),
            &format!("after one of {} MiB; {}", SHORT_UPLOAD >> 20, speed(gib << 30, &took)),
            grown <= UPLOAD_SLACK_KB,
        )])
    }

    /// A number of kB in the gateway's `proc_pid_status(5)`.
    fn resident(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.ours.process.pid()))?;
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
        Ok(value.with_context(|| name.to_owned())?.trim().parse()?)
    }

    fn rounds(&self) -> String {
        format!("{} rounds", self.rounds)
    }
}

/// The median, in MB a second.
fn speed(length: u64, times: &Samples<Duration>) -> String {
    let micros = times.percentile(50).as_micros().max(1);
    format!("{} MB/s", u128::from(length) / micros)
}
