//! `matchlock log --network`: lines of JSON as lines for people.

use std::fmt::Write;

use matchlock_model::printable;
use serde::Deserialize;

/// Characters of a line that are shown. Names and paths in it are the guest's choice.
const MAX_SHOWN: usize = 1000;

/// Bytes of a line that are kept until its end comes; what is longer is shown as it is.
const MAX_LINE: usize = 64 * 1024;

/// What a line has that people are shown. What is not there does not apply.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Record {
    time: String,
    event: String,
    destination: String,
    outcome: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    addresses: Vec<String>,
    rule: String,
    refused: Vec<Refusal>,
    error: String,
    blocked: String,
    /// Of events, in whose place a line is.
    count: u64,
    from_guest: Option<u64>,
    to_guest: Option<u64>,
    took_us: u64,
    method: String,
    scheme: String,
    host: String,
    port: u16,
    path: String,
    status: Option<u16>,
    secrets: Vec<String>,
    rules: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    told: String,
}

/// Makes lines of the blocks in which a file is read.
#[derive(Default)]
pub(crate) struct Humanizer {
    begun: Vec<u8>,
    /// The rest of a line is passed over of which too much has come.
    skipping: bool,
}

impl Humanizer {
    /// What becomes of this block; a line that is not complete yet waits.
    pub(crate) fn feed(&mut self, block: &[u8]) -> String {
        self.begun.extend_from_slice(block);
        let mut shown = String::new();
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            if !std::mem::take(&mut self.skipping) {
                shown.push_str(&human(line.trim_ascii_end()));
                shown.push('\n');
            }
        }
        if self.begun.len() > MAX_LINE {
            let line = std::mem::take(&mut self.begun);
            if !std::mem::replace(&mut self.skipping, true) {
                shown.push_str(&human(&line));
                shown.push('\n');
            }
        }
        shown
    }
}

/// One line: when, verdict, what, bytes, how long it took, and why.
fn human(line: &[u8]) -> String {
    let line = match serde_json::from_slice::<Record>(line) {
        Ok(record) => record.to_string(),
        Err(_) => String::from_utf8_lossy(line).into_owned(),
    };
    printable(&line, MAX_SHOWN)
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.event == "lost" {
            return write!(f, "{} lost    {} events, which the disk did not take in time", self.time, self.count);
        }
        let verdict = if self.outcome == "done" { "allowed" } else { &self.outcome };
        write!(f, "{} {verdict:<7} {}", self.time, self.what())?;
        if let (Some(sent), Some(received)) = (self.from_guest, self.to_guest) {
            write!(f, ", {} out, {} in", bytes(sent), bytes(received))?;
        }
        write!(f, ", {}", duration(self.took_us))?;
        if !self.secrets.is_empty() {
            write!(f, ", with {}", self.secrets.join(", "))?;
        }
        match self.why() {
            why if why.is_empty() => Ok(()),
            why => write!(f, ": {why}"),
        }
    }
}

impl Record {
    fn what(&self) -> String {
        match &*self.event {
            "query" => {
                let mut text = format!("query {} {}", self.kind, self.name);
                if !self.addresses.is_empty() {
                    let _ = write!(text, " = {}", self.addresses.join(" "));
                }
                text
            }
            "request" => {
                let status = self.status.map_or_else(String::new, |status| format!(" {status}"));
                format!("{} {}://{}:{}{}{status}", self.method, self.scheme, self.host, self.port, self.path)
            }
            event => {
                let protocol = match event {
                    "connection" => "TCP",
                    "flow" => "UDP",
                    other => other,
                };
                let name = if self.name.is_empty() { String::new() } else { format!(" {}", self.name) };
                format!("{protocol}{name} {}", self.destination)
            }
        }
    }

    /// The rule that allowed it, or what was wrong.
    fn why(&self) -> String {
        let refused = self.refused.iter().map(|refusal| refusal.told.clone());
        let rule = (self.outcome == "done").then(|| self.rule.clone());
        let causes =
            [self.error.clone(), self.blocked.clone()].into_iter().chain(rule).chain(self.rules.iter().cloned());
        causes.chain(refused).filter(|cause| !cause.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

/// In units of 1000, as `ls -h --si` has them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn bytes(count: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match units.into_iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count as f64 / size as f64),
        None => format!("{count} B"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn duration(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1000.0),
        _ => format!("{:.1} s", us as f64 / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_line_that_is_too_long_is_no_line() {
        let mut humanizer = Humanizer::default();
        let mut shown = humanizer.feed(&vec![b'x'; MAX_LINE + 1]);
        shown += &humanizer.feed(b" 2026-01-02T03:04:05.678Z allowed connection\n");
        shown += &humanizer.feed(b"another\n");
        assert_eq!(shown.lines().count(), 2);
        assert!(shown.ends_with("\nanother\n") && !shown.contains("allowed"), "{shown}");
    }

    #[test]
    fn every_kind_of_event_is_a_line() {
        let lines = concat!(
            r#"{"time":"2026-01-02T03:04:05.678Z","event":"query","client":"192.168.100.2:4","destination":"192.168.100.1:53","outcome":"done","transport":"udp","name":"api.x.com","type":"A","code":"NOERROR","addresses":["192.0.2.1","192.0.2.2"],"rule":"--allow-host api.x.com","took_us":812}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:05.678Z","event":"query","destination":"192.168.100.1:53","outcome":"denied","transport":"udp","name":"evil.com","type":"A","code":"NXDOMAIN","addresses":[],"refused":[{"destination":"evil.com","reason":"host not in allowlist","flag":"--allow-host evil.com","told":"evil.com: host not in allowlist (--allow-host evil.com would allow it)"}],"took_us":31}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:06.001Z","event":"connection","destination":"192.0.2.1:443","outcome":"done","name":"api.x.com","rule":"--allow-host api.x.com","from_guest":512,"to_guest":123456,"took_us":1234567}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:06.001Z","event":"request","destination":"192.0.2.1:443","outcome":"done","name":"api.x.com","rule":"--allow-host api.x.com","method":"GET","scheme":"https","host":"api.x.com","port":443,"path":"/v1/models","status":200,"secrets":["API_KEY"],"from_guest":0,"to_guest":2048,"took_us":20500}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:06.001Z","event":"request","destination":"192.0.2.1:80","outcome":"blocked","blocked":"secret API_KEY is not for this host","method":"GET","scheme":"http","host":"api.x.com","port":80,"path":"/\u001b[2J","took_us":20}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:06.001Z","event":"flow","destination":"192.0.2.7:123","outcome":"failed","rule":"the open network","error":"Connection refused (os error 111)","from_guest":48,"to_guest":0,"took_us":90}"#,
            "\n",
            r#"{"time":"2026-01-02T03:04:07.000Z","event":"lost","count":12}"#,
            "\n",
            "not JSON\n",
        );
        let (first, rest) = lines.as_bytes().split_at(100);
        let mut humanizer = Humanizer::default();
        let shown = [humanizer.feed(first), humanizer.feed(rest)].concat();
        insta::assert_snapshot!(shown, @r"
        2026-01-02T03:04:05.678Z allowed query A api.x.com = 192.0.2.1 192.0.2.2, 812 µs: --allow-host api.x.com
        2026-01-02T03:04:05.678Z denied  query A evil.com, 31 µs: evil.com: host not in allowlist (--allow-host evil.com would allow it)
        2026-01-02T03:04:06.001Z allowed TCP api.x.com 192.0.2.1:443, 512 B out, 123.5 kB in, 1.2 s: --allow-host api.x.com
        2026-01-02T03:04:06.001Z allowed GET https://api.x.com:443/v1/models 200, 0 B out, 2.0 kB in, 20.5 ms, with API_KEY: --allow-host api.x.com
        2026-01-02T03:04:06.001Z blocked GET http://api.x.com:80/[2J, 20 µs: secret API_KEY is not for this host
        2026-01-02T03:04:06.001Z failed  UDP 192.0.2.7:123, 48 B out, 0 B in, 90 µs: Connection refused (os error 111)
        2026-01-02T03:04:07.000Z lost    12 events, which the disk did not take in time
        not JSON
        ");
    }
}
