//! `matchlock run`: one command in a sandbox of its own, of which nothing stays.

use std::{fmt::Write, time::Duration};

use anyhow::{Result, ensure};
use matchlock_testkit::{Home, ImageSpec, LayerTar, busybox_layer, images};
use matchlock_tests::{BUSYBOX, DEBIAN, Sandbox, busybox, complaints, debian, import};
use rustix::process::Signal;
use serde_json::json;

/// What `list` says when there is nothing.
const NO_SANDBOX: &str = "ID  STATUS  IMAGE  CREATED  PID\n";

#[test]
fn streams_and_exit_code_are_the_commands_own() -> Result<()> {
    let home = busybox()?;
    let script = "echo out; echo err >&2; exit 42";
    let ended = home.matchlock(["run", "--image", BUSYBOX, "--", "sh", "-c", script]).run()?.exits_with(42)?;
    assert_eq!((ended.stdout(), complaints(&ended)), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), NO_SANDBOX);
    Ok(())
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_line() -> Result<()> {
    let home = busybox()?;
    let ended = home.matchlock(["run", "--image", BUSYBOX, "--", "nope"]).run()?.exits_with(127)?;
    assert_eq!(ended.stdout(), "");
    assert_eq!(complaints(&ended), "exec \"nope\": not found in $PATH\n");
    assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), NO_SANDBOX);
    Ok(())
}

#[test]
fn a_signal_that_ends_the_command_is_told_by_the_exit_code() -> Result<()> {
    let home = busybox()?;
    home.matchlock(["run", "--image", BUSYBOX, "--", "sh", "-c", "kill -KILL $$"]).run()?.exits_with(137)?;
    Ok(())
}

/// An image with an opinion on everything.
fn opinionated() -> Result<ImageSpec> {
    let users = LayerTar::new()
        .file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")?
        .file("etc/group", 0o644, b"wheel:x:10:app\nstaff:x:50:app\napp:x:1001:\n")?
        .finish()?;
    let mut image = ImageSpec::new(vec![busybox_layer()?, users]);
    image.config = json!({
        "User": "app", "WorkingDir": "/srv/new/place", "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo by default in $PWD"],
        "Env": ["PATH=/bin:/opt", "A=image", "B=image", "C=image"],
    });
    Ok(image)
}

#[test]
fn an_image_without_a_command_line_runs_as_its_config_says() -> Result<()> {
    let home = Home::new()?;
    import(&home, "opinionated", &opinionated()?)?;
    let ended = home.matchlock(["run", "--image", "opinionated"]).run()?.success()?;
    assert_eq!(ended.stdout(), "by default in /srv/new/place\n");

    // The words replace the image's command and follow its entrypoint.
    let script = "id -u; id -g; id -G; echo $HOME $PATH $TERM; echo $A $B $C; pwd";
    std::fs::write(home.path().join("variables"), "# some\n\nB=file\nC=file\n")?;
    let variables = home.path().join("variables").display().to_string();
    let run = ["run", "--image", "opinionated", "--env-file", &variables, "-e", "C=flag", "--", script];
    let ended = home.matchlock(run).run()?.success()?;
    insta::assert_snapshot!(ended.stdout(), @r"
    1000
    1001
    1001 10 50
    /home/app /bin:/opt linux
    image file flag
    /srv/new/place
    ");
    Ok(())
}

#[test]
fn the_images_opinion_can_be_overruled() -> Result<()> {
    let home = Home::new()?;
    import(&home, "opinionated", &opinionated()?)?;
    let flags = ["--entrypoint", "", "--user", "0:50", "--workdir", "/etc", "-e", "HOME=/tmp"];
    let words = ["--", "sh", "-c", "id -u; id -g; pwd; echo $HOME"];
    let ended = home.matchlock([&["run", "--image", "opinionated"], &flags[..], &words].concat()).run()?.success()?;
    assert_eq!(ended.stdout(), "0\n50\n/etc\n/tmp\n");

    let run = ["run", "--image", "opinionated", "--entrypoint", "/bin/echo", "--", "-n", "$HOME"];
    assert_eq!(home.matchlock(run).run()?.success()?.stdout(), "$HOME");
    Ok(())
}

#[test]
fn who_a_command_runs_as_is_looked_up_in_the_image() -> Result<()> {
    let home = Home::new()?;
    let mut image = opinionated()?;
    image.config = json!({"Env": ["PATH=/bin"]});
    import(&home, "users", &image)?;
    let sandbox = Sandbox::idle(&home, "users", &[])?;
    let mut who = String::new();
    for user in ["", "root", "app", "1000", "app:wheel", "app:77", "4242", "4242:50"] {
        let script = "echo \"$(id -u) $(id -g) [$(id -G)] $HOME\"";
        let ended = sandbox.exec(&["--user", user, "--", "sh", "-c", script]).run()?.success()?;
        write!(who, "{user:>9}: {}", ended.stdout())?;
    }
    insta::assert_snapshot!(who, @r"
             : 0 0 [0] /root
         root: 0 0 [0] /root
          app: 1000 1001 [1001 10 50] /home/app
         1000: 1000 1001 [1001 10 50] /home/app
    app:wheel: 1000 10 [10] /home/app
       app:77: 1000 77 [77] /home/app
         4242: 4242 4242 [4242] /
      4242:50: 4242 50 [50] /
    ");

    let refused = [
        ("--user", "nobody", 127, "user \"nobody\" does not exist: the image's /etc/passwd does not list it\n"),
        ("--user", "app:none", 127, "group \"none\" does not exist: the image's /etc/group does not list it\n"),
        ("--workdir", "/none", 127, "working directory \"/none\" does not exist\n"),
        ("--workdir", "etc", 127, "working directory \"etc\" is not an absolute path\n"),
    ];
    for (flag, value, code, line) in refused {
        let ended = sandbox.exec(&[flag, value, "--", "true"]).run()?.exits_with(code)?;
        assert_eq!(ended.stderr(), line);
    }
    let not_started = [
        ("/none", 127, "exec \"/none\": no such file\n"),
        ("/etc/passwd", 126, "exec \"/etc/passwd\": permission denied: it is not marked executable\n"),
        ("/etc", 126, "exec \"/etc\": is a folder\n"),
    ];
    for (program, code, line) in not_started {
        assert_eq!(sandbox.exec(&[program]).run()?.exits_with(code)?.stderr(), line);
    }
    Ok(())
}

#[test]
fn the_machine_is_as_the_flags_say() -> Result<()> {
    let home = busybox()?;
    let names = ["--hostname", "build-1", "--add-host", "db:10.0.0.7,v6:fd00::1", "--dns-servers", "1.1.1.1,1.0.0.1"];
    let sizes = ["--cpus", "0.5", "--memory", "384", "--disk-size", "64"];
    let sandbox = Sandbox::idle(&home, BUSYBOX, &[names, sizes].concat())?;
    insta::assert_snapshot!(sandbox.sh("busybox hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf")?, @r"
    build-1
    build-1
    127.0.0.1 localhost localhost.localdomain build-1
    10.0.0.7 db
    fd00::1 v6
    ::1 localhost ip6-localhost ip6-loopback
    ff02::1 ip6-allnodes
    ff02::2 ip6-allrouters
    nameserver 1.1.1.1
    nameserver 1.0.0.1
    ");
    let cgroup = sandbox.sh("sed s/0::// /proc/self/cgroup")?;
    assert_eq!(sandbox.sh(&format!("cat /sys/fs/cgroup{cgroup}/cpu.max"))?, "50000 100000");
    assert_eq!(sandbox.sh("busybox nproc")?, "1");

    let memory: u32 = sandbox.sh("busybox awk '/MemTotal/ {print $2}' /proc/meminfo")?.parse()?;
    assert!((320..=384).contains(&(memory / 1024)), "{memory} KiB");
    let disk: u32 = sandbox.sh("busybox df -k / | busybox awk 'END {print $2}'")?.parse()?;
    assert!((48..=64).contains(&(disk / 1024)), "{disk} KiB");
    let full = sandbox.exec(&["busybox", "dd", "if=/dev/zero", "of=/full", "bs=1M"]).run()?.exits_with(1)?;
    assert!(full.stderr().contains("No space left on device"), "{full}");

    assert_eq!(sandbox.sh("ls /sys/class/net")?, "eth0\nlo");
    sandbox.sh("busybox ping -c 1 -W 9 localhost && busybox ping -c 1 -W 9 ::1")?;
    Ok(())
}

/// Says which capabilities are out of its reach, whether it may gain privileges, and `PTRACE_TRACEME`'s `errno`.
const POWERS: &str = "
import ctypes
status = dict(line.split() for line in open('/proc/self/status') if line.startswith(('CapBnd', 'NoNewPrivs')))
print([bit for bit in range(41) if not int(status['CapBnd:'], 16) >> bit & 1], status['NoNewPrivs:'])
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0, 0, 0, 0), ctypes.get_errno())
";

#[test]
fn a_debian_image_has_its_languages_and_a_command_no_power_over_the_machine() -> Result<()> {
    let home = debian()?;
    let sandbox = Sandbox::idle(&home, DEBIAN, &[])?;
    let said = sandbox.exec(&["node", "-e", "console.log(process.platform, 6 * 7)"]).run()?.success()?;
    assert_eq!(said.stdout(), "linux 42\n");
    assert_eq!(sandbox.sh(". /etc/os-release; echo $ID")?, "debian");
    let powers = sandbox.exec(&["python3", "-c", POWERS]).run()?.success()?;
    // CAP_SYS_MODULE, RAWIO, PTRACE, ADMIN and BOOT (linux/capability.h); EPERM is 1.
    assert_eq!(powers.stdout(), "[16, 17, 19, 21, 22] 1\n-1 1\n");
    drop(sandbox);

    let run = ["run", "--privileged", "--image", DEBIAN, "--", "python3", "-c", POWERS];
    assert_eq!(home.matchlock(run).run()?.success()?.stdout(), "[] 0\n0 0\n");
    Ok(())
}

#[test]
fn one_static_program_and_nothing_else_is_an_image() -> Result<()> {
    let home = Home::with_image("scratch", &images::scratch_static()?)?;
    let run = ["run", "--image", "scratch", "--hostname", "bare", "-u", "12:34", "--", "sh", "-c"];
    let script = "id -u; id -g; cat /etc/hostname; pwd; echo $HOME; ls /";
    let ended = home.matchlock([&run[..], &[script]].concat()).run()?.success()?;
    insta::assert_snapshot!(ended.stdout(), @r"
    12
    34
    bare
    /
    /
    busybox
    dev
    etc
    proc
    run
    sys
    tmp
    ");
    Ok(())
}

#[test]
fn time_runs_out() -> Result<()> {
    let home = busybox()?;
    let run = ["run", "--image", BUSYBOX, "--timeout", "8", "--", "sleep", "1000"];
    let ended = home.matchlock(run).run()?.exits_with(124)?;
    assert_eq!(complaints(&ended), "timeout of 8 seconds reached\n");
    ensure!((8..60).contains(&ended.took.as_secs()), "{ended}");
    assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), NO_SANDBOX);
    Ok(())
}

#[test]
fn a_signal_ends_the_sandbox_in_order() -> Result<()> {
    let home = busybox()?;
    for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129)] {
        let run = ["run", "--image", BUSYBOX, "--", "sh", "-c", "echo ready; sleep 1000"];
        let mut running = home.matchlock(run).spawn()?;
        running.expect_stdout("ready\n")?;
        running.signal(signal)?;
        assert_eq!(complaints(&running.wait()?.exits_with(code)?), "");
        assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), NO_SANDBOX);
    }
    Ok(())
}

#[test]
fn who_does_not_want_to_wait_for_an_end_in_order_says_so_again() -> Result<()> {
    let home = busybox()?;
    // It takes far longer than this test may: what it is told to do, it does not.
    let deaf = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let flags = ["--log-level", "info", "run", "--graceful-shutdown", "1h", "--image", BUSYBOX, "--", "sh", "-c"];
    let mut running = home.matchlock([&flags[..], &[deaf]].concat()).spawn()?;
    running.expect_stdout("ready\n")?;
    running.signal(Signal::TERM)?;
    running.expect_stderr("ending the sandbox in order")?;
    running.signal(Signal::INT)?;
    assert!(complaints(&running.wait()?.exits_with(143)?).contains("it was interrupted"));

    // The command is over; a child of its keeps the sandbox.
    let leaves = "trap '' TERM; sleep 1000 & echo over";
    let mut running = home.matchlock([&flags[..], &[leaves]].concat()).spawn()?;
    running.expect_stdout("over\n")?;
    running.expect_stderr("ending the sandbox in order")?;
    running.signal(Signal::INT)?;
    assert!(complaints(&running.wait()?.exits_with(130)?).contains("it was interrupted"));
    assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), NO_SANDBOX);
    Ok(())
}

#[test]
fn a_kept_sandbox_says_how_to_reach_it_and_outlives_its_command() -> Result<()> {
    let home = busybox()?;
    let run = ["run", "--rm=false", "--image", BUSYBOX, "--", "sh", "-c", "echo done > /tmp/mark; echo done; exit 5"];
    let mut running = home.matchlock(run).within(Duration::from_mins(3)).spawn()?;
    let banner = running.expect_stderr("matchlock kill vm-")?;
    running.expect_stdout("done\n")?;
    let listed = home.matchlock(["list"]).run()?.success()?.stdout();
    let id = listed.lines().nth(1).and_then(|row| row.split(' ').next()).unwrap_or_default();
    assert!(banner.contains(&format!("Sandbox {id} is running\n  Connect: matchlock exec {id} -it ")), "{banner}");
    let exec = home.matchlock(["exec", id, "cat", "/tmp/mark"]).run()?.success()?;
    assert_eq!(exec.stdout(), "done\n");

    home.matchlock(["kill", id]).run()?.success()?;
    let ended = running.wait()?;
    assert_eq!((ended.code(), ended.stdout()), (5, "done\n".to_owned()), "{ended}");
    let kept = home.matchlock(["list"]).run()?.success()?.stdout();
    assert!(kept.contains(id) && kept.contains("stopped"), "{kept}");
    home.matchlock(["rm", id]).run()?.success()?;
    assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), NO_SANDBOX);
    Ok(())
}
