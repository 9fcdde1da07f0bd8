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
mod on_host;
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
use rustix::thread::CapabilitySet;

use self::world::Host;

/// A story's name and what happens in it.
type Story = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "hold"] => matchlock_net::namespace::hold().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        [_, "supervise", host] => {
            world::be_on(host_of(host));
            end::supervise()
        }
        [_, "hold-with-rights"] => {
            on_host::hold(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE)
        }
        [_, "hold-without-rights"] => on_host::hold(CapabilitySet::empty()),
        [_, "story", host, name] => {
            let (_, story) = stories().into_iter().find(|story| story.0 == name).expect("a story of this name");
            world::enter(host_of(host));
            story();
            ExitCode::SUCCESS
        }
        _ => {
            let missing = what_is_missing();
            if let Some(missing) = &missing {
                println!("all stories about a sandbox's network are skipped: {missing}");
            }
            let trial = |host, story: Story| {
                let trial = Trial::test(format!("{host}{}", story.0), move || tell(host, story.0));
                trial.with_ignored_flag(missing.is_some())
            };
            let usual = everywhere().into_iter().chain(usual()).map(|story| trial(USUAL, story));
            let forbidding = everywhere().into_iter().chain(on_host::STORIES.to_vec());
            let forbidding = forbidding.map(|story| trial(FORBIDDING, story));
            libtest_mimic::run(&Arguments::from_args(), usual.chain(forbidding).collect()).exit_code()
        }
    }
}

/// What stands before a story's name, by its host.
pub(crate) const USUAL: &str = "";
pub(crate) const FORBIDDING: &str = "among_the_hosts_links_";

fn host_of(name: &str) -> Host {
    if name == USUAL { Host::Usual } else { Host::Forbidding }
}

/// What is so on every host.
fn everywhere() -> Vec<Story> {
    [tcp::STORIES, udp::STORIES, dns::STORIES, walls::STORIES, guard::STORIES].concat()
}

/// What is so where there are namespaces.
fn usual() -> Vec<Story> {
    [echo::STORIES, end::STORIES, &intercept::stories()].concat()
}

fn stories() -> Vec<Story> {
    [everywhere(), usual(), on_host::STORIES.to_vec()].concat()
}

/// These need the device, as sandboxes with a network do.
fn what_is_missing() -> Option<String> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    tun.err().map(|e| format!("/dev/net/tun: {e}"))
}

fn tell(host: &str, name: &str) -> Result<(), libtest_mimic::Failed> {
    let mut story = Command::new("/proc/self/exe");
    let output = story.args(["story", host, name]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&said)).into())
}
