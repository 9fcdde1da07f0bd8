//! The policy and the resolver's messages, as tables that can be read and as properties.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod classes;
mod dns;
mod dns_hostile;
mod explain;
mod names;
mod pins;
mod targets;
mod verdicts;

use std::{fmt::Write, net::IpAddr};

use matchlock_net::policy::{Destination, Mode, Name, Policy, Protocol};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn intercept(allowed: &[&str]) -> Policy {
    let allowed = allowed.iter().map(|target| target.parse().unwrap()).collect();
    Policy { mode: Mode::Intercept, allowed, ..Policy::default() }
}

fn open() -> Policy {
    Policy { mode: Mode::Open, ..Policy::default() }
}

fn private(policy: Policy, allow_private: &[&str]) -> Policy {
    Policy { allow_private: allow_private.iter().map(|target| target.parse().unwrap()).collect(), ..policy }
}

fn tcp(name: Option<&Name>, address: IpAddr, port: u16) -> Destination<'_> {
    Destination { name, address, port, protocol: Protocol::Tcp }
}

/// A line for every case: what was given, and what became of it.
fn table<T: std::fmt::Display>(cases: impl IntoIterator<Item = (T, String)>) -> String {
    cases.into_iter().fold(String::new(), |mut table, (given, became)| {
        let given = given.to_string();
        writeln!(table, "{}", format!("{given:<32} {became}").trim_end()).unwrap();
        table
    })
}
