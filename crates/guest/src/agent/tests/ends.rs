//! How programs end: by themselves, by the host, and what they leave behind.

use std::fs;

use super::*;

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
fn orphans_are_collected() {
    let mut host = Host::new();
    host.run(shell("for i in 1 2 3 4 5 6 7 8 9; do (sh -c 'sleep 0.1' &) ; done"));
    host.run(argv(["sleep", "0.3"]));
    let parent = format!("{}", host.agent.id());
    let zombies = host.run(shell(&format!("ps -o stat= --ppid {parent} | grep -c Z")));
    assert_eq!(zombies.text(), "0\n");
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
