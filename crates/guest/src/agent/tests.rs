//! The agent's loop with real processes, as the host sees it over a socket.
//!
//! Each test's agent is a process of its own, this test program started again for [`serve`] alone: it collects every
//! child of its process, as PID 1 does.

use std::{
    fs,
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

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
#[ignore = "the agent's side of the other tests, which start it"]
fn serve() {
    set_child_subreaper(Some(getpid())).unwrap();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    fcntl_setfl(&socket, OFlags::NONBLOCK).unwrap();
    let mut agent = Agent::new(Link::new(socket).unwrap()).unwrap();
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
        command.args(["--exact", "agent::tests::serve", "--ignored", "--nocapture"]);
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
    Exec { argv: words.map(str::to_owned).to_vec(), ..Exec::default() }
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

#[test]
fn a_program_is_told_of_when_it_starts_and_ends() {
    let mut host = Host::new();
    let story = host.run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!(story.text(), "out\n");
    assert_eq!(story.error, b"err\n");
    let [Note::Started { pid: 2.. }, Note::Exited(ExitKind::Code(7))] = story.notes[..] else { panic!("{story:?}") };
}

#[test]
fn a_signalled_program_is_told_apart_from_one_that_exits() {
    let mut host = Host::new();
    assert_eq!(host.run(shell("kill -KILL $$")).exit(), &Note::Exited(ExitKind::Signal(9)));
    assert_eq!(host.run(shell("exit 137")).exit(), &Note::Exited(ExitKind::Code(137)));
}

#[test]
fn programs_are_not_started_by_a_shell() {
    let story = Host::new().run(argv(["printf", "%s|", "a b", "$HOME", "*", "", "'"]));
    assert_eq!(story.text(), "a b|$HOME|*||'|");
}

#[test]
fn a_hundred_megabytes_go_in_and_out_unharmed() {
    let data = pattern(100 * 1024 * 1024);
    let story = Host::new().run_with_input(piped(argv(["cat"])), &data);
    assert!(story.output == data, "{} bytes came back", story.output.len());
    assert_eq!(story.exit(), &Note::Exited(ExitKind::Code(0)));
}

#[test]
fn a_slow_reader_gets_everything_and_the_agent_does_not_drop_a_readable_input() {
    let data = pattern(3 * 1024 * 1024);
    let story = Host::new().run_with_input(piped(shell("dd bs=1000 2>/dev/null | cat")), &data);
    assert!(story.output == data);
    assert!(!story.input_refused);
}

#[test]
fn without_credit_a_program_is_held_at_one_window() {
    let mut host = Host::new();
    let id = host.open(argv(["yes"]));
    let mut received = 0;
    while received < limits::WINDOW as usize {
        if let Event::Data(_, Channel::Output, bytes) = host.next() {
            received += bytes.len();
        }
    }
    // The agent still answers others, and sends nothing more of `yes`.
    let story = host.run(argv(["true"]));
    assert_eq!(story.notes.len(), 2);
    host.mux.end(id);
    assert_eq!(host.follow(id, None), Story::default());
}

#[test]
fn a_program_whose_output_nobody_wants_gets_sigpipe() {
    let mut host = Host::new();
    let id = host.open(argv(["yes"]));
    host.until_line(id);
    host.mux.stop(id, Channel::Output);
    assert_eq!(host.follow(id, None).exit(), &Note::Exited(ExitKind::Signal(13)));
}

#[test]
fn an_input_that_the_program_closes_is_refused_while_the_program_runs_on() {
    let mut host = Host::new();
    let id = host.open(piped(shell("exec 0<&-; echo closed; while [ ! -e $FLAG ]; do sleep 0.01; done").with_flag()));
    while host.next() != Event::Stopped(id, Channel::Input) {}
    fs::write(flag_path(), "").unwrap();
    assert_eq!(host.follow(id, None).exit(), &Note::Exited(ExitKind::Code(0)));
    fs::remove_file(flag_path()).unwrap();
}

fn flag_path() -> String {
    format!("{}/matchlock-guest-flag-{}", std::env::temp_dir().display(), std::process::id())
}

trait WithFlag {
    fn with_flag(self) -> Self;
}

impl WithFlag for Exec {
    fn with_flag(mut self) -> Self {
        self.env.push(("FLAG".to_owned(), flag_path()));
        self
    }
}

#[test]
fn input_to_a_program_that_ends_early_is_dropped() {
    let story = Host::new().run_with_input(piped(argv(["head", "-c", "5"])), &pattern(4 * 1024 * 1024));
    assert_eq!(story.output, pattern(5));
    assert_eq!(story.exit(), &Note::Exited(ExitKind::Code(0)));
}

#[test]
fn each_direction_can_be_closed_alone() {
    let mut host = Host::new();
    let story = host.run_with_input(piped(shell("exec >&-; cat >&2")), b"still read");
    assert_eq!((story.text(), story.error.as_slice()), ("", b"still read".as_slice()));
    let story = host.run(shell("cat; echo end of input"));
    assert_eq!(story.text(), "end of input\n");
}

#[test]
fn everything_written_before_the_end_arrives_after_it() {
    let mut host = Host::new();
    for _ in 0..20 {
        assert_eq!(host.run(shell("printf %065000d 1; printf %065000d 2 >&2")).output.len(), 65_000);
    }
}

#[test]
fn a_background_child_neither_delays_the_end_nor_dies_of_a_closed_pipe() {
    let mut host = Host::new();
    let place = tempfile::tempdir().unwrap();
    let (go, done) = (place.path().join("go"), place.path().join("done"));
    let waiting = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let story =
        host.run(shell(&format!("({waiting}; echo late && echo later && : > {}) & echo early", done.display())));
    assert_eq!(story.text(), "early\n");
    fs::write(go, "").unwrap();
    host.run(shell(&format!("while [ ! -e {} ]; do sleep 0.01; done", done.display())));
}

#[test]
fn a_chatty_background_child_does_not_hold_the_session_open() {
    let mut host = Host::new();
    let story = host.run(shell("yes & echo $!; echo pid $! >&2; exit 3"));
    assert_eq!(story.exit(), &Note::Exited(ExitKind::Code(3)));
    let pid = str::from_utf8(&story.error).unwrap().trim_start_matches("pid ").trim().to_owned();
    assert_eq!(host.run(argv(["kill", &pid])).exit(), &Note::Exited(ExitKind::Code(0)));
}

#[test]
fn a_terminal_has_its_size_and_is_the_controlling_one() {
    let story = Host::new().run(on_terminal(shell("stty size; tty; echo x > /dev/tty; ps -o sid= -p $$; echo $$")));
    let lines: Vec<_> = story.text().lines().map(str::trim).collect();
    assert_eq!(lines[0], "33 101");
    assert!(lines[1].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[2], "x");
    assert_eq!(lines[3], lines[4], "leader of its session");
}

#[test]
fn a_resized_terminal_tells_its_programs() {
    let mut host = Host::new();
    let id = host.open(on_terminal(shell("trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.01; done")));
    host.until_line(id);
    host.mux.note(id, &Note::Resize(TerminalSize { rows: 5, cols: 6 })).unwrap();
    let story = host.follow(id, None);
    assert_eq!(story.text(), "5 6\r\n");
    assert_eq!(story.exit(), &Note::Exited(ExitKind::Code(3)));
}

#[test]
fn the_end_of_a_terminals_input_is_its_end_of_file_character() {
    let story = Host::new().run_with_input(on_terminal(argv(["cat"])), b"line\n");
    assert_eq!(story.text(), "line\r\nline\r\n");
    assert_eq!(story.exit(), &Note::Exited(ExitKind::Code(0)));
}

#[test]
fn a_terminals_last_output_arrives_even_if_a_child_keeps_it_open() {
    let script = "stty -opost; head -c 3000000 /dev/zero; sleep 30 & exit 4";
    let story = Host::new().run(on_terminal(shell(script)));
    assert_eq!(story.output.len(), 3_000_000);
    assert_eq!(story.exit(), &Note::Exited(ExitKind::Code(4)));
}

#[test]
fn a_cancelled_program_ends_at_once_if_it_takes_sigterm() {
    let mut host = Host::new();
    let id = host.open(shell("echo ready; sleep 100; echo not reached"));
    let (program, _) = host.until_line(id);
    let begin = Instant::now();
    host.mux.end(id);
    host.follow(id, None);
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    await_death(program);
}

#[test]
fn a_cancelled_program_that_ignores_sigterm_is_killed_with_its_group() {
    let mut host = Host::new();
    let id = host.open(shell("trap '' TERM; sleep 100 & echo $!; while :; do sleep 1; done"));
    let (program, _) = host.until_line(id);
    let begin = Instant::now();
    host.mux.end(id);
    host.follow(id, None);
    assert!((500..5000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    await_death(program);
    assert_eq!(test_kill_process_group(program), Err(Errno::SRCH));
}

#[test]
fn a_stopped_program_can_be_cancelled() {
    let mut host = Host::new();
    let id = host.open(shell("echo ready; kill -STOP $$; echo not reached"));
    let (program, _) = host.until_line(id);
    host.mux.end(id);
    host.follow(id, None);
    await_death(program);
}

#[test]
fn the_programs_of_a_host_that_leaves_are_ended() {
    let mut host = Host::new();
    let id = host.open(shell("echo ready; sleep 100"));
    let (program, _) = host.until_line(id);
    host.socket.shutdown(std::net::Shutdown::Both).unwrap();
    await_death(program);
    assert_eq!(host.agent.try_wait().unwrap(), None, "the agent waits for the next host");
}

#[test]
fn signals_reach_the_whole_process_group() {
    let mut host = Host::new();
    let id = host.open(shell("sleep 300 & echo $!; wait"));
    let (_, line) = host.until_line(id);
    host.mux.note(id, &Note::Signal(15)).unwrap();
    assert_eq!(host.follow(id, None).exit(), &Note::Exited(ExitKind::Signal(15)));
    await_death(Pid::from_raw(line.trim().parse().unwrap()).unwrap());
}

#[test]
fn orphans_are_collected() {
    let mut host = Host::new();
    host.run(shell("for i in 1 2 3 4 5 6 7 8 9; do (sh -c 'sleep 0.1' &) ; done"));
    host.run(argv(["sleep", "0.3"]));
    let parent = format!("{}", host.agent.id());
    let zombies = host.run(shell(&format!("ps -o stat= --ppid {parent} | grep -c Z")));
    assert_eq!(zombies.text(), "0\n");
}

#[test]
fn a_program_starts_with_a_clean_slate() {
    let mut host = Host::new();
    assert_eq!(host.run(argv(["ls", "/proc/self/fd"])).text(), "0\n1\n2\n3\n", "3 is the folder that ls reads");
    assert_eq!(host.run(shell("umask; pwd")).text(), "0022\n/\n");
    let status = host.run(argv(["cat", "/proc/self/status"]));
    for name in ["SigBlk:", "SigIgn:"] {
        let mask = status.text().lines().find_map(|line| line.strip_prefix(name)).unwrap();
        // The two signals above the standard ones are the C library's own, and may come ignored from the test's parent.
        assert_eq!(u64::from_str_radix(mask.trim(), 16).unwrap() & !(0b11 << 31), 0, "{name} {mask}");
    }
}

#[test]
fn the_environment_is_the_agents_below_the_requests() {
    let mut host = Host::new();
    let story = host.run(Exec {
        env: [("A", "1"), ("PATH", "/usr/bin:/bin"), ("A", "2"), ("HOME", "/somewhere")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..argv(["env"])
    });
    let mut lines: Vec<_> = story.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=2", "HOME=/somewhere", "PATH=/usr/bin:/bin", "TERM=linux"]);
}

#[test]
fn what_cannot_be_started_is_said_with_the_right_kind() {
    use FailureKind::{Internal, NotExecutable, NotFound};
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    for (name, text, mode) in [("plain", "x", 0o644), ("junk", "junk", 0o755), ("lost", "#!/no/such/thing\n", 0o755)] {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut host = Host::new();
    let long = "x".repeat(200_000);
    for (exec, kind, message) in [
        (argv(["no-such-program"]), NotFound, r#"exec "no-such-program": not found in $PATH"#),
        (argv(["./no"]), NotFound, r#"exec "./no": no such file"#),
        (argv([&path("lost")]), NotFound, "the interpreter or loader that it asks for does not exist"),
        (argv([&path("plain")]), NotExecutable, "permission denied"),
        (argv([&path("junk")]), NotExecutable, "not a program of this machine's format"),
        (argv(["/etc"]), NotExecutable, "is a folder"),
        (argv(["true", &long]), NotExecutable, "arguments and environment are too long"),
        (argv(["true", "a\0b"]), Internal, "NUL"),
        (Exec::default(), Internal, "no program was given"),
        (
            Exec { cwd: "/no/such".to_owned(), ..argv(["true"]) },
            NotFound,
            r#"working directory "/no/such" does not exist"#,
        ),
        (Exec { cwd: "relative".to_owned(), ..argv(["true"]) }, NotFound, "not an absolute path"),
        (Exec { user: "nobody-here".to_owned(), ..argv(["true"]) }, NotFound, r#"user "nobody-here" does not exist"#),
    ] {
        let story = host.run(exec);
        let Note::Failed(failure) = story.exit() else { panic!("{message}: {story:?}") };
        assert!(failure.message.contains(message), "{failure:?} should say {message}");
        assert_eq!(failure.kind, kind, "{failure:?}");
    }
}

#[test]
fn an_images_working_folder_is_made() {
    let place = tempfile::tempdir().unwrap();
    let cwd = format!("{}/a/b", place.path().to_str().unwrap());
    let mut host = Host::new();
    let story = host.run(Exec { cwd: cwd.clone(), create_cwd: true, ..argv(["pwd"]) });
    assert_eq!(story.text(), format!("{cwd}\n"));
    let story = host.run(Exec { cwd: cwd.clone(), ..shell("echo '#!/bin/sh\necho here' > x; chmod +x x; ./x") });
    assert_eq!(story.text(), "here\n");
    assert_eq!(host.run(Exec { cwd, ..argv(["./x"]) }).text(), "here\n");
}

#[test]
fn a_user_gets_the_ids_and_can_reopen_its_streams() {
    if !getuid().is_root() {
        eprintln!("skipped: changing users takes root");
        return;
    }
    let mut host = Host::new();
    let script = "id -u; id -g; id -G; echo again > /dev/stdout; grep -E 'CapEff|CapPrm' /proc/self/status";
    let story = host.run(Exec { user: "4321:765".to_owned(), ..shell(script) });
    assert_eq!(story.text(), "4321\n765\n765\nagain\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n");
    let story = host.run(Exec { user: "4321".to_owned(), ..on_terminal(shell("echo again > /dev/stdout; id -u")) });
    assert_eq!(story.text(), "again\r\n4321\r\n");
}

#[test]
fn many_sessions_run_side_by_side() {
    let mut host = Host::new();
    let ids: Vec<_> = (0..100).map(|number| host.open(shell(&format!("sleep 0.1; exit {number}")))).collect();
    let mut codes = std::collections::BTreeMap::new();
    while codes.len() < ids.len() {
        if let Event::Note(id, Note::Exited(ExitKind::Code(code))) = host.next() {
            codes.insert(id, code);
        }
    }
    assert_eq!(ids.iter().map(|id| codes[id]).collect::<Vec<_>>(), (0..100).collect::<Vec<u8>>());
}

#[test]
fn only_pid_1_powers_off() {
    let mut host = Host::new();
    let id = host.mux.open(&Request::PowerOff { grace_ms: 0 }).unwrap();
    let Note::Failed(failure) = host.follow(id, None).exit().clone() else { panic!("this machine survived") };
    assert_eq!(failure.message, "this agent is not the machine's first process");
}

#[test]
fn a_sandbox_is_started_once() {
    let mut host = Host::new();
    let start = matchlock_wire::Start {
        clock_ns: u64::MAX,
        entropy: [0; 32],
        hostname: "again".to_owned(),
        dns_servers: Vec::new(),
        add_hosts: Vec::new(),
        root: matchlock_wire::RootDisks { lower: 0, upper: 1 },
        disks: Vec::new(),
        cpu_quota: None,
        privileged: true,
    };
    let id = host.mux.open(&Request::Start(Box::new(start))).unwrap();
    let Note::Failed(failure) = host.follow(id, None).exit().clone() else { panic!("started twice") };
    assert_eq!(failure.message, "the sandbox has been started before");
}
