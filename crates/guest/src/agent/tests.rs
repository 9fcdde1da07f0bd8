//! The agent's loop with real processes, as the host sees it over a socket.
//!
//! Each test's agent is a process of its own, this test program started again for [`serve`]: it collects every
//! child of its process, as PID 1 does.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio as HostStdio},
    time::{Duration, Instant},
};

use matchlock_wire::{Exec, ExitKind, Stdio, TerminalSize};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::{Pid, PidfdFlags, getpid, getuid, pidfd_open, set_child_subreaper, test_kill_process_group},
};

use super::*;
use crate::identity::Names;

mod ends;
mod programs;
mod streams;
mod terminals;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// What tells this program that it is to be an agent.
const AS_AGENT: &str = "as-the-agent";

/// This test is also how the others get an agent.
#[test]
fn an_agent_greets_its_host() {
    if std::env::args().any(|argument| argument == AS_AGENT) {
        serve();
    }
    Host::new();
}

fn serve() {
    set_child_subreaper(Some(getpid())).unwrap();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    fcntl_setfl(&socket, OFlags::NONBLOCK).unwrap();
    let mut agent = Agent::new(Link::new(socket).unwrap(), Names::none()).unwrap();
    agent.stage = Stage::Started(Vec::new());
    panic!("{}", agent.run().unwrap_err());
}

/// The host's side: a client of one agent.
struct Host {
    agent: Child,
    socket: UnixStream,
    mux: Mux,
    events: std::collections::VecDeque<Event>,
}

/// All that happened in a session.
#[derive(Debug, Default, PartialEq)]
struct Story {
    output: Vec<u8>,
    error: Vec<u8>,
    notes: Vec<Note>,
    input_refused: bool,
}

impl Story {
    fn exit(&self) -> &Note {
        self.notes.last().expect("a session has a last note")
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.output).unwrap()
    }
}

impl Host {
    #[expect(unsafe_code, reason = "the agent's main thread must be born with SIGCHLD blocked, as PID 1's is")]
    fn new() -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "agent::tests::an_agent_greets_its_host", "--nocapture", AS_AGENT]);
        command.current_dir("/").stdin(OwnedFd::from(theirs)).stdout(HostStdio::null());
        // SAFETY: two system calls. The second keeps what the test runner has open from the agent.
        unsafe {
            command.pre_exec(|| {
                crate::reap::set_mask(libc::SIG_BLOCK, true)?;
                libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed());
                Ok(())
            });
        }
        let agent = command.spawn().unwrap();
        let mut host = Self { agent, socket, mux: Mux::new(Role::Host), events: std::collections::VecDeque::new() };
        assert_eq!(host.next(), Event::Hello(Hello { protocol: limits::PROTOCOL }));
        host
    }

    fn flush(&mut self) {
        while self.mux.output_len() > 0 {
            let count = self.socket.write(self.mux.output()).unwrap();
            self.mux.written(count);
        }
    }

    fn next(&mut self) -> Event {
        self.flush();
        let mut buffer = vec![0; 64 * 1024];
        while self.events.is_empty() {
            let count = self.socket.read(&mut buffer).expect("the agent says something in time");
            assert_ne!(count, 0, "the agent is gone");
            self.events.extend(self.mux.receive(&buffer[..count]).unwrap());
        }
        self.events.pop_front().unwrap()
    }

    fn open(&mut self, exec: Exec) -> SessionId {
        self.mux.open(&Request::Exec(exec)).unwrap()
    }

    /// Run to the end with `input`, and an end of it.
    fn run_with_input(&mut self, exec: Exec, input: &[u8]) -> Story {
        let id = self.open(exec);
        self.follow(id, Some(input))
    }

    fn run(&mut self, exec: Exec) -> Story {
        let id = self.open(exec);
        self.follow(id, None)
    }

    fn follow(&mut self, id: SessionId, mut input: Option<&[u8]>) -> Story {
        let mut story = Story::default();
        loop {
            if let Some(rest) = &mut input {
                let sent = self.mux.send(id, Channel::Input, rest);
                *rest = &rest[sent..];
                if rest.is_empty() {
                    self.mux.eof(id, Channel::Input);
                    input = None;
                }
            }
            match self.next() {
                Event::Data(of, channel, bytes) => {
                    assert_eq!(of, id);
                    self.mux.grant(id, channel, u32::try_from(bytes.len()).unwrap());
                    match channel {
                        Channel::Output => story.output.extend(bytes),
                        _ => story.error.extend(bytes),
                    }
                }
                Event::Note(_, note) => story.notes.push(note),
                Event::Stopped(_, Channel::Input) => story.input_refused = true,
                Event::Ended(of) if of == id => return story,
                _ => {}
            }
        }
    }

    /// Read until the session's program has written a line to its output; returns the program and the line.
    fn until_line(&mut self, id: SessionId) -> (Pid, String) {
        let mut pid = None;
        loop {
            match self.next() {
                Event::Note(of, Note::Started { pid: number }) if of == id => {
                    pid = Pid::from_raw(number.cast_signed());
                }
                Event::Data(of, Channel::Output, bytes) if of == id && bytes.contains(&b'\n') => {
                    return (pid.unwrap(), String::from_utf8(bytes).unwrap());
                }
                Event::Note(_, note @ (Note::Exited(_) | Note::Failed(_))) => panic!("{note:?}"),
                _ => {}
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn argv<const N: usize>(words: [&str; N]) -> Exec {
    Exec { argv: words.map(|word| word.as_bytes().to_vec()).to_vec(), ..Exec::default() }
}

fn shell(script: &str) -> Exec {
    argv(["sh", "-c", script])
}

fn piped(exec: Exec) -> Exec {
    Exec { stdio: Stdio::Pipes, ..exec }
}

fn on_terminal(exec: Exec) -> Exec {
    Exec { stdio: Stdio::Terminal(TerminalSize { rows: 33, cols: 101 }), ..exec }
}

/// Wait until `program` has ended.
fn await_death(program: Pid) {
    let Ok(pidfd) = pidfd_open(program, PidfdFlags::empty()) else { return };
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)), Ok(1), "{program:?} lives on");
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]).collect()
}
