//! What a program is started with, and what is said of one that cannot be.

use std::fs;

use super::*;

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

    let words = [&b"printf"[..], b"%s|", b"\xff", b"caf\xe9"];
    let story = Host::new().run(Exec { argv: words.map(<[u8]>::to_vec).to_vec(), ..Exec::default() });
    assert_eq!(story.output, b"\xff|caf\xe9|");
}

#[test]
fn a_program_starts_with_a_clean_slate() {
    let mut host = Host::new();
    assert_eq!(host.run(argv(["ls", "/proc/self/fd"])).text(), "0\n1\n2\n3\n", "3 is the folder that ls reads");
    assert_eq!(host.run(shell("umask; pwd")).text(), "0022\n/\n");
    let story = host.run(argv(["cat", "/proc/self/status"]));
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(mask(story.text(), "SigBlk:"), 0);
    // The kernel starts PID 1 with nothing ignored; this test's parent may ignore what it likes, such as Ctrl-C.
    let ignored = mask(story.text(), "SigIgn:");
    assert_eq!(ignored & !mask(&own, "SigIgn:"), 0, "{ignored:x}");
    assert_eq!(ignored & SIGPIPE, 0, "{ignored:x}");
}

/// What the runtime of the agent ignores, and a program must not.
const SIGPIPE: u64 = 1 << 12;

/// A mask of signals in the text of `/proc/<pid>/status`.
fn mask(status: &str, name: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
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
fn a_sandbox_is_started_once() {
    let mut host = Host::new();
    let start =
        matchlock_wire::Start { clock_ns: u64::MAX, hostname: "again".to_owned(), ..matchlock_wire::Start::default() };
    let id = host.mux.open(&Request::Start(Box::new(start))).unwrap();
    let Note::Failed(failure) = host.follow(id, None).exit().clone() else { panic!("started twice") };
    assert_eq!(failure.message, "the sandbox has been started before");
}
