//! `-it`: a program in a sandbox at the caller's terminal.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use matchlock_testkit::{Matchlock, Terminal};
use matchlock_tests::{DEBIAN, Sandbox, debian};

const DEADLINE: Duration = Duration::from_mins(2);

/// Says how the terminal is set, runs the command, and says its exit code and how the terminal is set then.
const SCRIPT: &str = "stty -g; \"$@\"; echo code=$?; stty -g";

/// `command` at a terminal of 24 rows and 80 columns, between two looks at how that is set.
fn at_terminal(command: &Matchlock) -> Result<Terminal> {
    let matchlock = command.command()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "sh"]).arg(matchlock.get_program()).args(matchlock.get_args());
    shell.envs(matchlock.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm-256color");
    Terminal::start(&shell, (24, 80), DEADLINE)
}

/// Wait for the end. The program has to end with `code`, and the terminal to be set as it was before.
fn ends(terminal: Terminal, code: i32) -> Result<()> {
    let (_, shown) = terminal.wait()?;
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    let [.., told, after] = lines[..] else { anyhow::bail!("{shown:?}") };
    assert_eq!((told, after), (format!("code={code}").as_str(), *lines.first().context("a line")?), "{shown:?}");
    Ok(())
}

#[test]
fn a_shell_is_at_home_in_the_callers_terminal() -> Result<()> {
    let home = debian()?;
    let run = home.matchlock(["run", "-it", "--image", DEBIAN, "--", "bash", "--norc"]);
    let mut terminal = at_terminal(&run)?;
    terminal.expect("# ")?;
    terminal.type_in("tty; echo $TERM; stty size\r")?;
    terminal.expect("/dev/pts/")?;
    terminal.expect("xterm-256color\r\n")?;
    terminal.expect("24 80\r\n")?;

    // What is typed differs from what is shown, so that an echo is not taken for an answer.
    terminal.type_in("sh -c 'trap \"stty size; exit\" WINCH; echo wait\"\"ing; while :; do sleep 0.1; done'\r")?;
    terminal.expect("waiting\r\n")?;
    terminal.resize(50, 100)?;
    terminal.expect("50 100\r\n")?;

    // Ctrl-C is for the program: the shell goes on.
    terminal.type_in("sh -c 'echo beg\"\"un; exec sleep 1000'\r")?;
    terminal.expect("begun\r\n")?;
    terminal.type_in("\x03")?;
    terminal.type_in("echo status=$?\r")?;
    terminal.expect("status=130\r\n")?;

    // All of a long output comes, and so does what stands before an end.
    terminal.type_in("seq 20000; exit 5\r")?;
    terminal.expect("19999\r\n20000\r\n")?;
    ends(terminal, 5)
}

#[test]
fn the_users_own_word_on_the_terminal_wins() -> Result<()> {
    let home = debian()?;
    let run = ["run", "-it", "-e", "TERM=vt100", "--image", DEBIAN, "--", "sh", "-c", "echo \"<$TERM>\""];
    let mut terminal = at_terminal(&home.matchlock(run))?;
    terminal.expect("<vt100>\r\n")?;
    ends(terminal, 0)
}

#[test]
fn a_running_sandbox_can_be_entered_at_a_terminal_and_left_by_closing_it() -> Result<()> {
    let home = debian()?;
    let sandbox = Sandbox::idle(&home, DEBIAN, &[])?;
    let mut terminal = at_terminal(&sandbox.exec(&["-it", "-e", "TERM=vt100", "-w", "/tmp", "--", "sh"]))?;
    terminal.expect("# ")?;
    terminal.type_in("pwd; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo at\"\"-terminal\r")?;
    terminal.expect("/tmp\r\nvt100\r\nat-terminal\r\n")?;
    // Ctrl-D.
    terminal.type_in("\x04")?;
    ends(terminal, 0)?;

    let refused = at_terminal(&sandbox.exec(&["-it", "--", "nope"]))?;
    ends(refused, 127)?;

    let mut closed = at_terminal(&sandbox.exec(&["-it", "--", "sh", "-c", "echo $$ > /tmp/pid; echo ready; cat"]))?;
    closed.expect("ready\r\n")?;
    let watcher = sandbox.watch()?;
    drop(closed);
    watcher.wait()?.success()?;
    Ok(())
}
