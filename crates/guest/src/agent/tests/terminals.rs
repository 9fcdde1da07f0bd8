//! Programs on a terminal.

use super::*;

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
