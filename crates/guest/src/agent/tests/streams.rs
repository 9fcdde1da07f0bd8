//! Bytes between the host and a program, and who waits for whom.

use std::fs;

use super::*;

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
    let place = tempfile::tempdir().unwrap();
    let go = place.path().join("go");
    let script = format!("exec 0<&-; while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let id = host.open(piped(shell(&script)));
    while host.next() != Event::Stopped(id, Channel::Input) {}
    fs::write(go, "").unwrap();
    assert_eq!(host.follow(id, None).exit(), &Note::Exited(ExitKind::Code(0)));
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
