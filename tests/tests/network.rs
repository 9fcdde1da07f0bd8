//! What a sandbox may reach is said once, changed while it runs, and seen afterwards; secrets are nowhere but where they belong. All of
//! it without an internet: a name that is not allowed is answered here.

use std::{fs, io::ErrorKind, sync::mpsc, time::Duration};

use anyhow::{Context, Result, ensure};
use matchlock_testkit::Home;
use matchlock_tests::{BUSYBOX, Sandbox, busybox, query, sandbox_folder};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::geteuid,
};

const VALUE: &str = "hunter2-the-value";

/// For a command to read its arguments, however busy the host is.
const DEADLINE: Duration = Duration::from_mins(1);

#[test]
fn a_list_that_changes_and_what_was_asked_for() -> Result<()> {
    let home = busybox()?;
    let sandbox = Sandbox::idle(&home, BUSYBOX, &["--allow-host", "x.test"])?;
    let id = sandbox.id();
    let change = |words: &[&str]| -> Result<String> {
        Ok(home.matchlock([&["allow-list"], words].concat()).run()?.success()?.stdout().replace(id, "ID"))
    };
    insta::assert_snapshot!(change(&["add", id, "*.y.test,db.test:5432", "x.test"])?, @r"
    Added to ID: *.y.test,db.test:5432
    Current allow-list: x.test,*.y.test,db.test:5432
    ");
    let explained = |url: &str| home.matchlock(["policy", "explain", id, url]).run();
    insta::assert_snapshot!(explained("https://evil.test/")?.exits_with(1)?.stdout(), @r"
    destination  evil.test, TCP port 443
    name         denied: host not in allowlist (--allow-host evil.test would allow it)
    answer       denied: the name is not resolved
    ");
    insta::assert_snapshot!(change(&["delete", id, "*.y.test", "x.test", "db.test:5432"])?, @r"
    Removed from ID: *.y.test,x.test,db.test:5432
    Current allow-list: (empty: nothing is allowed)
    ");
    insta::assert_snapshot!(change(&["delete", id, "x.test"])?, @r"
    No hosts were removed from ID
    Current allow-list: (empty: nothing is allowed)
    ");
    let asked = sandbox.exec(&["sh", "-c", "nslookup x.test"]).run()?;
    ensure!(asked.code() == 1 && asked.stdout().contains("NXDOMAIN"), "{asked}");
    let shown = home.matchlock(["log", "--network", id]).run()?.success()?.stdout();
    let line = "x.test: host not in allowlist (--allow-host x.test would allow it)";
    ensure!(shown.lines().any(|shown| shown.contains(" denied  query ") && shown.ends_with(line)), "{shown}");
    let records = home.matchlock(["log", "--network", "--json", id]).run()?.success()?.stdout();
    for record in records.lines() {
        let record: serde_json::Value = serde_json::from_str(record)?;
        ensure!(record["event"] == "query" && record["outcome"] == "denied" && record["took_us"].is_u64(), "{record}");
    }
    // The record of what was asked for stays.
    ensure!(home.matchlock(["get", id]).run()?.success()?.stdout().contains("\"x.test\""));
    Ok(())
}

#[test]
fn what_has_no_list_is_not_given_one() -> Result<()> {
    let home = busybox()?;
    for (flags, unreachable) in
        [(&["--no-network"][..], "the sandbox has no network: nothing is allowed"), (&[], "cloud metadata")]
    {
        let sandbox = Sandbox::idle(&home, BUSYBOX, flags)?;
        let refused = home.matchlock(["allow-list", "add", sandbox.id(), "x.test"]).run()?.exits_with(1)?;
        let why =
            "update allow-list: allow-list updates unavailable: sandbox was started without network interception\n";
        ensure!(refused.stderr() == why, "{flags:?}: {refused}");
        let explained =
            home.matchlock(["policy", "explain", sandbox.id(), "http://169.254.169.254/"]).run()?.exits_with(1)?;
        let said = explained.stdout() + &explained.stderr();
        ensure!(said.contains(unreachable), "{flags:?}: {explained}");
    }
    Ok(())
}

#[test]
fn a_denial_is_told_once_with_the_flag_that_would_allow_it() -> Result<()> {
    let home = busybox()?;
    let ask = "nslookup evil.test; nslookup evil.test; true";
    let run = ["run", "--image", BUSYBOX, "--network-intercept", "--", "sh", "-c", ask];
    let errors = home.matchlock(run).run()?.success()?.stderr();
    let told: Vec<_> = errors.lines().filter(|line| line.starts_with("denied ")).collect();
    ensure!(told == ["denied evil.test: host not in allowlist (--allow-host evil.test would allow it)"], "{errors}");
    home.assert_nothing_left()
}

#[test]
fn what_is_blocked_is_told_once_with_the_reason() -> Result<()> {
    let home = busybox()?;
    let ask = "for n in 1 2; do wget -O- --header \"X-Key: $KEY\" http://good.test/; done; true";
    let run = ["run", "--image", BUSYBOX, "--secret", "KEY=hunter2@good.test", "--add-host", "good.test:93.184.216.34"];
    let run = [&run[..], &["--", "sh", "-c", ask]].concat();
    let errors = home.matchlock(run).run()?.success()?.stderr();
    let told: Vec<_> = errors.lines().filter(|line| line.starts_with("blocked ")).collect();
    ensure!(told == ["blocked good.test: secret placeholder sent without TLS (KEY)"], "{errors}");
    home.assert_nothing_left()
}

#[test]
fn what_was_learned_of_a_sandbox_that_connects_to_nothing_it_may() -> Result<()> {
    let home = busybox()?;
    let connect = "nc -w 5 169.254.169.254 80 < /dev/null; true";
    let run = ["run", "--image", BUSYBOX, "--learn", "--", "sh", "-c", connect];
    let errors = home.matchlock(run).run()?.success()?.stderr();
    let end = errors.split_once("learned: ").context("nothing was learned")?.1;
    insta::assert_snapshot!(end, @r"
    the sandbox connected to nothing; --network-intercept allows it as much
      not reached: 169.254.169.254: 169.254.169.254 is a cloud metadata address (--allow-private-host 169.254.169.254 would allow it)
    ");
    Ok(())
}

#[test]
fn a_secret_is_in_no_place_where_others_look() -> Result<()> {
    let home = busybox()?;
    fs::write(
        home.path().join("secrets.json"),
        format!(r#"{{"FILED": {{"value": "{VALUE}", "hosts": ["x.test"]}}}}"#),
    )?;
    let file = home.path().join("secrets.json").display().to_string();
    let inline = format!("INLINE={VALUE}@x.test");
    let words =
        ["run", "-d", "--image", BUSYBOX, "--secret", &inline, "--secret", "VARIABLE@x.test", "--secret-file", &file];
    let words = [&words[..], &["--secret-placeholder", "FILED=pretend-0123", "--", "sleep", "1000"]].concat();
    let started = home.matchlock(words).env("VARIABLE", VALUE).run()?.success()?;
    ensure!(started.stderr().contains(&format!("chmod 600 {file}")), "others can read the file: {started}");
    let id = started.stdout().trim().to_owned();
    let end = || home.matchlock(["rm", &id]).run();
    let told = looked_for(&home, &id);
    home.matchlock(["kill", &id]).run()?.success()?;
    end()?.success()?;
    told?;
    home.assert_nothing_left()
}

fn looked_for(home: &Home, id: &str) -> Result<()> {
    let guest = home.matchlock(["exec", id, "--", "env"]).run()?.success()?.stdout();
    ensure!(guest.contains("FILED=pretend-0123\n") && guest.contains("INLINE=SANDBOX_SECRET_"), "{guest}");
    ensure!(guest.contains("VARIABLE=SANDBOX_SECRET_") && !guest.contains(VALUE), "{guest}");
    let shown = home.matchlock(["inspect", id]).run()?.success()?.stdout();
    ensure!(shown.contains("pretend-0123") && !shown.contains(VALUE), "{shown}");

    let set = ["secret", "set", id, "INLINE"];
    home.matchlock(set).stdin(format!("{VALUE}-2\n")).run()?.success()?;
    let unknown = home.matchlock(["secret", "set", id, "NONE"]).stdin(VALUE).run()?.exits_with(1)?;
    ensure!(unknown.stderr() == "set secret: the sandbox was started without a secret NONE\n", "{unknown}");

    // All that the kernel shows of its processes, whoever they are: the supervisor, the machine, the namespace's holder.
    let mut seen = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let (words, variables) = (read("cmdline"), read("environ"));
        seen += usize::from(contains(&words, BUSYBOX) && contains(&words, "--secret"));
        ensure!(!contains(&words, VALUE) && !contains(&variables, VALUE), "{}", entry.path().display());
    }
    ensure!(seen >= 1, "the supervisor was not looked at");
    let supervisor = query(home, &format!("SELECT pid FROM vms WHERE id = '{id}'"))?;
    leaves_no_core(supervisor.trim())?;

    // What is kept of it, the database included.
    let folder = sandbox_folder(home).context("the sandbox's folder")?;
    let kept = fs::read_dir(&folder)?.chain(fs::read_dir(home.state().root())?).flatten();
    let mut files = 0;
    for file in kept.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        files += 1;
        ensure!(!contains(&fs::read(file.path())?, VALUE), "{}", file.path().display());
    }
    ensure!(files >= 3, "{files} files in {}", folder.display());
    Ok(())
}

#[test]
fn a_secret_is_shown_no_longer_while_a_file_is_waited_for() -> Result<()> {
    let home = Home::new()?;
    let fifo = home.path().join("slow");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let (file, inline) = (fifo.display().to_string(), format!("INLINE={VALUE}@x.test"));
    let words = ["run", "--image", BUSYBOX, "--secret-file", &file, "--secret", &inline, "--secret", "VARIABLE@x.test"];
    let waiting = home.matchlock(words).env("VARIABLE", VALUE).spawn()?;
    // Whoever opens it to write waits for whoever opens it to read.
    let (opened, reading) = mpsc::channel();
    std::thread::spawn(move || opened.send(fs::File::options().write(true).open(fifo)));
    let file = reading.recv_timeout(DEADLINE).context("the file of secrets is not read")??;
    let shown = |what: &str| fs::read(format!("/proc/{}/{what}", waiting.pid()));
    let words = shown("cmdline")?;
    let seen = String::from_utf8_lossy(&words).replace('\0', " ");
    ensure!(contains(&words, "--secret-file") && !contains(&words, VALUE), "{seen}");
    match shown("environ") {
        Ok(variables) => {
            let seen = String::from_utf8_lossy(&variables).replace('\0', " ");
            ensure!(contains(&variables, "VARIABLE=") && !contains(&variables, VALUE), "{seen}");
        }
        // The variables of a process whose memory is private are root's to see.
        Err(e) => ensure!(e.kind() == ErrorKind::PermissionDenied && !geteuid().is_root(), "{e}"),
    }
    leaves_no_core(&waiting.pid().to_string())?;
    drop(file);
    let end = waiting.wait()?.exits_with(1)?;
    ensure!(end.stderr().ends_with("line 1 column 0: not JSON\n"), "{end}");
    Ok(())
}

/// That is set together with what keeps its memory private, which cannot be asked about from outside.
fn leaves_no_core(pid: &str) -> Result<()> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
    ensure!(core.split_whitespace().skip(4).take(2).all(|limit| limit == "0"), "{core}");
    Ok(())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
