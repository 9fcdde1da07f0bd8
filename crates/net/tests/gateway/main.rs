//! Stories about a sandbox's network: real namespaces, the real gateway, and a guest at the other end of the TAP.
//!
//! Each is a process of its own, for it moves into a namespace of its own that stands for the host and its internet
//! (`world.rs`), which only a process with one thread may do. So the harness is not the usual one, and this program also
//! plays the holder and the supervisor that is killed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, though clippy does not see it without the usual harness"
)]

mod dns;
mod echo;
mod end;
mod guard;
mod guest;
mod intercept;
mod sandbox;
mod tcp;
mod udp;
mod walls;
mod world;

use std::{
    fs::File,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Trial};

/// A story's name and what happens in it.
type Story = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "hold"] => matchlock_net::namespace::hold().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        [_, "supervise"] => end::supervise(),
        [_, "story", name] => {
            let (_, story) = stories().into_iter().find(|story| story.0 == name).expect("a story of this name");
            world::enter();
            story();
            ExitCode::SUCCESS
        }
        _ => {
            let missing = what_is_missing();
            if let Some(missing) = &missing {
                println!("all stories about a sandbox's network are skipped: {missing}");
            }
            let trial = |(name, _): Story| Trial::test(name, move || tell(name)).with_ignored_flag(missing.is_some());
            libtest_mimic::run(&Arguments::from_args(), stories().into_iter().map(trial).collect()).exit_code()
        }
    }
}

fn stories() -> Vec<Story> {
    [
        tcp::STORIES,
        udp::STORIES,
        dns::STORIES,
        echo::STORIES,
        walls::STORIES,
        guard::STORIES,
        end::STORIES,
        &intercept::stories(),
    ]
    .concat()
}

/// These need the device, as sandboxes with a network do.
fn what_is_missing() -> Option<String> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    tun.err().map(|e| format!("/dev/net/tun: {e}"))
}

fn tell(name: &str) -> Result<(), libtest_mimic::Failed> {
    let mut story = Command::new("/proc/self/exe");
    let output = story.args(["story", name]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&said)).into())
}
