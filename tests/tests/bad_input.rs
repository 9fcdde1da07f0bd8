//! Mistakes at the command line: each is one clear line on standard error and the right exit code, without a sandbox.

use std::{
    ffi::OsStr,
    fmt::Write,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
};

use anyhow::{Context, Result};
use matchlock_testkit::Home;
use matchlock_tests::{BUSYBOX, busybox};

/// What each command line says, below its exit code. All are wrong.
fn mistakes<Word: AsRef<OsStr>>(home: &Home, lines: &[impl AsRef<[Word]>]) -> Result<String> {
    let mut told = String::new();
    let processors = format!("({})", std::thread::available_parallelism()?);
    let total = fs::read_to_string("/proc/meminfo")?;
    let total = total.split_ascii_whitespace().nth(1).context("MemTotal")?.parse::<u64>()?;
    let memory = format!("({} MiB)", total / 1024);
    for line in lines {
        let output = home.matchlock(line.as_ref()).run()?;
        assert_eq!((output.stdout().as_str(), output.stderr().lines().count()), ("", 1), "{output}");
        let said = output.stderr().replace(&home.path().display().to_string(), "~").replace(&processors, "(all)");
        let said = said.replace(&memory, "(all MiB)");
        write!(told, "{} {}", output.code(), said)?;
    }
    // Not even a failed start is recorded.
    assert_eq!(home.matchlock(["list"]).run()?.success()?.stdout(), "ID  STATUS  IMAGE  CREATED  PID\n");
    Ok(told)
}

#[test]
fn wrong_words() -> Result<()> {
    let told = mistakes(
        &Home::new()?,
        &[
            &["bogus"][..],
            &["lst"],
            &["image", "bogus"],
            &["--log-level", "loud", "list"],
            &["run"],
            &["run", "--image"],
            &["run", "--bogus", "--image", "x"],
            &["run", "-x", "--image", "x"],
            &["run", "--image", "x", "--rm=maybe", "--", "true"],
            // A command's own flags need `--` before it.
            &["run", "--image", "x", "python3", "-c", "1"],
            &["run", "--image", "x", "--cpus", "-1", "--", "true"],
            &["run", "--image", "x", "-d", "-it", "--", "sh"],
            &["run", "--image", "x", "-d", "-i", "--", "sh"],
            &["run", "--image", "x", "-it", "--", "sh"],
            &["exec"],
            &["exec", "vm-00000000"],
            &["exec", "-it", "vm-00000000"],
            &["exec", "vm-00000000", "--", "true"],
            &["exec", "nonsense", "--", "true"],
            &["exec", "-it", "vm-00000000", "--", "sh"],
            &["kill"],
            &["kill", "nonsense"],
            &["rm"],
            &["get", "vm-00000000"],
            &["inspect", "vm-00000000"],
            &["log", "vm-00000000"],
            &["pull"],
            &["image", "rm", "none"],
            &["image", "import"],
        ],
    )?;
    insta::assert_snapshot!(told, @r#"
    1 unknown command "bogus" for "matchlock"
    1 unknown command "lst" for "matchlock" (did you mean list or ls?)
    1 unknown command "bogus" for "matchlock image"
    1 invalid argument "loud" for "--log-level": use one of debug, info, warn, error (see --help)
    1 required flag(s) "image" not set (see --help)
    1 flag needs an argument: --image (see --help)
    1 unknown flag: --bogus (see --help)
    1 unknown shorthand flag: 'x' in -x (see --help)
    1 invalid argument "maybe" for "--rm": use true or false (see --help)
    1 unknown shorthand flag: 'c' in -c (for a flag of the command's own, put -- before it: -- python3 -c …; see --help)
    1 --cpus must be a finite number > 0
    1 --detach cannot be combined with -t/--tty or -i/--interactive
    1 --detach cannot be combined with -t/--tty or -i/--interactive
    1 -it requires a TTY: use -i to pipe standard input
    1 <ID> is required (see --help)
    1 command required (see --help)
    1 command required (such as sh)
    1 get VM: VM vm-00000000 not found
    1 VM not found: "nonsense" is not an id that `matchlock list` shows
    1 -it requires a TTY: use -i to pipe standard input
    1 VM ID required (or use --all)
    1 VM not found: "nonsense" is not an id that `matchlock list` shows
    1 VM ID required (or use --stopped)
    1 get VM: VM vm-00000000 not found
    1 get VM: VM vm-00000000 not found
    1 get VM: VM vm-00000000 not found
    1 <IMAGE> is required (see --help)
    1 image not found: "none"
    1 <TAG> is required (see --help)
    "#);
    Ok(())
}

#[test]
fn wrong_values_of_run() -> Result<()> {
    let home = Home::new()?;
    fs::write(home.path().join("variables"), "A=1\n\n# fine so far\nUNSET\n")?;
    let variables = home.path().join("variables").display().to_string();
    let values: &[(&str, &[&str])] = &[
        ("--image", &["UPPER", "a b", "x@sha256:12", ""]),
        ("-e", &["UNSET", "=x"]),
        ("--env-file", &["/none", &variables]),
        ("--add-host", &["db", "db:ten", "a b:10.0.0.1"]),
        ("--dns-servers", &["1.1.1"]),
        ("--hostname", &["a b", "-a"]),
        ("--disk", &["x", "/none:/data", "@none:/data", "@../x:/data"]),
        ("--cpus", &["0", "-1", "NaN", "inf", "1000", "two"]),
        ("--memory", &["1", "4000000000", "5000000000", "-1", "lots"]),
        ("--disk-size", &["0", "-5"]),
        ("--timeout", &["soon", "-1"]),
        ("--graceful-shutdown", &["5", "2h"]),
    ];
    let line = |flag: &str, value: &str| {
        let image = (flag != "--image").then(|| "--image=x".to_owned());
        let words = [format!("{flag}={value}"), "--".to_owned(), "true".to_owned()];
        ["run".to_owned()].into_iter().chain(image).chain(words).collect::<Vec<_>>()
    };
    let lines: Vec<_> = values.iter().flat_map(|(flag, values)| values.iter().map(|value| line(flag, value))).collect();
    let told = mistakes(&home, &lines)?;
    insta::assert_snapshot!(told, @r#"
    1 parse image reference: "UPPER": the repository name must be lower-case
    1 parse image reference: "a b": the repository name may hold lower-case letters, digits and single separators . _ __ - only
    1 parse image reference: "x@sha256:12": its digest must be sha256: and 64 hex digits
    1 parse image reference: "": it is empty
    1 invalid environment variable: environment variable is not set $UNSET
    1 invalid environment variable: environment variable name cannot be empty
    1 read env file: /none: No such file or directory (os error 2)
    1 parse env file line ~/variables:4: environment variable is not set $UNSET
    1 invalid add-host mapping: invalid add-host format "db" (expected host:ip)
    1 invalid add-host mapping: invalid add-host ip "db:ten" (expected host:ip)
    1 invalid add-host mapping: invalid add-host hostname "a b:10.0.0.1" (expected host:ip)
    1 invalid argument "1.1.1" for "--dns-servers": invalid IP address syntax (see --help)
    1 invalid hostname "a b": use letters, digits, '-' and '.', at most 63 characters
    1 invalid hostname "-a": use letters, digits, '-' and '.', at most 63 characters
    1 invalid disk mount "x": expected format host_path:guest_mount[:ro] or @volume_name:guest_mount[:ro]
    1 invalid disk mount "/none:/data": host path does not exist: /none
    1 invalid disk mount "@none:/data": named volume not found: none
    1 invalid disk mount "@../x:/data": invalid volume name: ../x
    1 --cpus must be a finite number > 0
    1 --cpus must be a finite number > 0
    1 --cpus must be a finite number > 0
    1 --cpus must be a finite number > 0
    1 --cpus must be <= host cpus (all)
    1 invalid argument "two" for "--cpus": use a number of processors, such as 2 or 0.5 (see --help)
    1 --memory must be at least 96 MiB, got 1
    1 --memory must be <= host memory (all MiB)
    1 invalid argument "5000000000" for "--memory": this is too large (see --help)
    1 invalid argument "-1" for "--memory": use a whole number of MiB, such as 600 (see --help)
    1 invalid argument "lots" for "--memory": use a whole number of MiB, such as 600 (see --help)
    1 --disk-size must be at least 16 MiB, got 0
    1 invalid argument "-5" for "--disk-size": use a whole number of MiB, such as 600 (see --help)
    1 invalid argument "soon" for "--timeout": use a whole number of seconds, such as 600 (see --help)
    1 invalid argument "-1" for "--timeout": use a whole number of seconds, such as 600 (see --help)
    1 invalid argument "5" for "--graceful-shutdown": use a duration such as 500ms, 5s or 1m30s, at most 1h (see --help)
    1 invalid argument "2h" for "--graceful-shutdown": use a duration such as 500ms, 5s or 1m30s, at most 1h (see --help)
    "#);
    Ok(())
}

#[test]
fn wrong_networks() -> Result<()> {
    let home = Home::new()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = home.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path.display().to_string())
    };
    let odd = file("odd", r#"{"KEY": {"value": "hunter2", "host": "x.com"}}"#)?;
    let key = file("key", r#"{"KEY": {"value": "hunter2", "hosts": ["x.com"]}}"#)?;
    let lines: &[&[&str]] = &[
        &["--no-network", "--allow-host", "x.com"],
        &["--no-network", "--secret", "KEY=hunter2@x.com"],
        &["--no-network", "--network-intercept"],
        &["--no-network", "--tls-passthrough", "x.com"],
        &["--allow-host", ""],
        &["--allow-host", "x.com,https://y.com"],
        &["--allow-host", "x.com:0"],
        &["--allow-host", "x.com", "--allow-private-host", "10.0.0.5:80"],
        &["--tls-passthrough", "x.com"],
        &["--mtu", "0"],
        &["--mtu", "70000"],
        &["--mtu", "wide"],
        &["--secret", "KEY=hunter2"],
        &["--secret", "hunter2"],
        &["--secret", "KEY=hunter2@"],
        &["--secret", "UNSET@x.com"],
        &["--secret", "KEY=hunter2@x.com:8443"],
        &["--secret", "KEY=hunter2@10.0.0.5"],
        &["--secret", "KEY=hunter2@x.com", "--secret-file", &key],
        &["--secret", "KEY=hunter2@x.com", "--secret-placeholder", "KEY"],
        &["--secret", "KEY=hunter2@x.com", "--secret-placeholder", "KEY=short"],
        &["--secret", "KEY=hunter2@x.com", "--secret-in-body", "OTHER"],
        &["--secret", "KEY=hunter2@x.com", "--tls-passthrough", "*.com"],
        &["--secret", "KEY=hunter2@x.com", "-e", "KEY=hunter2"],
        &["--secret-file", "/none"],
        &["--secret-file", &odd],
        &["--learn", "--allow-host", "x.com"],
        &["--learn", "-d"],
    ];
    let lines: Vec<_> =
        lines.iter().map(|flags| [&["run", "--image", "x"], *flags, &["--", "true"]].concat()).collect();
    let told = mistakes(&home, &lines)?;
    assert!(!told.contains("hunter2"), "{told}");
    insta::assert_snapshot!(told, @r#"
    1 --no-network cannot be combined with --allow-host
    1 --no-network cannot be combined with --secret
    1 --no-network cannot be combined with --network-intercept
    1 --no-network cannot be combined with --tls-passthrough
    1 invalid allowed host "": a host name cannot be empty
    1 invalid allowed host "https://y.com": a host is wanted, not a URL
    1 invalid allowed host "x.com:0": a port is a number from 1 to 65535, a range (8000-8100) or *
    1 invalid private host "10.0.0.5:80": whom a private address is allowed to is said without a port; --allow-host says the ports
    1 tls-passthrough is about allowed hosts: say which are allowed
    1 --mtu must be between 576 and 65521, got 0
    1 --mtu must be between 576 and 65521, got 70000
    1 invalid argument "wide" for "--mtu": use a whole number of bytes, such as 600 (see --help)
    1 invalid secret "KEY=…": missing @hosts (format: NAME=VALUE@host1,host2 or NAME@host1,host2)
    1 invalid secret "…": missing @hosts (format: NAME=VALUE@host1,host2 or NAME@host1,host2)
    1 invalid secret "KEY=…@": no hosts specified after @
    1 invalid secret "UNSET@x.com": environment variable $UNSET is not set (hint: use 'sudo -E' to preserve env vars, or pass inline: UNSET=VALUE@x.com)
    1 secret KEY: host "x.com:8443": whom a secret is for is said without a port; allowed hosts say the ports
    1 secret KEY: it is for names: give 10.0.0.5 one with add-host
    1 secret KEY is given twice
    1 invalid secret placeholder "KEY" (expected NAME=PLACEHOLDER)
    1 secret KEY: a placeholder has 8 to 16384 printable ASCII characters and no spaces
    1 --secret-in-body OTHER: there is no secret of that name
    1 tls-passthrough *.com: secret KEY is for it, and cannot be put into TLS that is left alone
    1 -e KEY would give the guest what --secret keeps from it
    1 read secret file /none: No such file or directory (os error 2)
    1 read secret file ~/odd: line 1 column 35: expected {"NAME": {"value": "…", "hosts": ["api.example.com"], "placeholder"?, "body"?, "without_tls"?}}
    1 --learn cannot be combined with --allow-host: it finds out what to allow
    1 --learn cannot be combined with --detach: nobody would see what it says
    "#);
    Ok(())
}

#[test]
fn networks_that_cannot_be_changed_or_asked_about() -> Result<()> {
    let told = mistakes(
        &Home::new()?,
        &[
            &["allow-list", "add", "vm-00000000"][..],
            &["allow-list", "add", "vm-00000000", " , "],
            &["allow-list", "delete", "vm-00000000", "x.com"],
            &["secret", "set", "vm-00000000"],
            &["secret", "set", "vm-00000000", "KEY", "--from-env", "UNSET"],
            &["policy", "explain"],
            &["policy", "explain", "vm-00000000", "x.com"],
            &["policy", "explain", "--allow-host", "x.com", "vm-00000000", "x.com"],
            &["policy", "explain", "gopher://x.com/"],
            &["log", "--json", "vm-00000000"],
            &["log", "--network", "vm-00000000"],
        ],
    )?;
    insta::assert_snapshot!(told, @r#"
    1 <HOST[:PORT]>... is required (see --help)
    1 invalid allow-list host: expected one or more hosts (comma-separated)
    1 get VM: VM vm-00000000 not found
    1 <NAME> is required (see --help)
    1 get VM: VM vm-00000000 not found
    1 <URL>... is required (see --help)
    1 get VM: VM vm-00000000 not found
    1 explain: vm-00000000 has its own network: leave either it or the flags out
    1 explain: which port gopher:// uses is not known here: add it to the host
    1 required flag(s) "network" not set (see --help)
    1 get VM: VM vm-00000000 not found
    "#);
    Ok(())
}

#[test]
fn a_policy_is_explained_without_a_sandbox() -> Result<()> {
    let home = Home::new()?;
    let explain = |words: &[&str]| home.matchlock([&["policy", "explain"], words].concat()).run();
    let allowed = explain(&["--allow-host", "192.0.2.1:22", "--allow-private-host", "192.0.2.1", "ssh://192.0.2.1"])?;
    insta::assert_snapshot!(allowed.success()?.stdout(), @r#"
    destination  192.0.2.1, TCP port 22
    192.0.2.1    allowed by --allow-host 192.0.2.1:22 and --allow-private-host 192.0.2.1
    answer       allowed
    "#);
    let denied = explain(&["--secret", "KEY=hunter2@x.com", "https://y.com/"])?.exits_with(1)?;
    insta::assert_snapshot!(denied.stdout(), @r#"
    destination  y.com, TCP port 443
    name         denied: host not in allowlist (--allow-host y.com would allow it)
    answer       denied: the name is not resolved
    "#);
    let nothing = explain(&["--no-network", "https://y.com/"])?.exits_with(1)?;
    assert_eq!(nothing.stdout(), "answer       denied: there is no network\n");
    Ok(())
}

#[test]
fn words_that_are_not_text() -> Result<()> {
    let odd = OsStr::from_bytes(b"caf\xe9");
    let disk = OsStr::from_bytes(b"/none/caf\xe9:/data");
    let run = |flag, value| {
        ["run", "--image=x", flag].map(OsStr::new).into_iter().chain([value, OsStr::new("true")]).collect::<Vec<_>>()
    };
    let told = mistakes(&Home::new()?, &[run("--user", odd), run("--env-file", odd), run("--disk", disk)])?;
    insta::assert_snapshot!(told, @r#"
    1 arguments have to be UTF-8, other than paths and a command's own (see --help)
    1 read env file: caf�: No such file or directory (os error 2)
    1 invalid disk mount "/none/caf�:/data": host path does not exist: /none/caf�
    "#);
    Ok(())
}

#[test]
fn images_that_are_not_to_be_had() -> Result<()> {
    let home = busybox()?;
    let told = mistakes(
        &home,
        &[
            // Nobody listens there.
            &["run", "--image", "localhost:1/none", "--", "true"][..],
            &["run", "--image", BUSYBOX, "--entrypoint", ""],
        ],
    )?;
    insta::assert_snapshot!(told, @"
    1 building rootfs: pull image: cannot reach registry localhost:1 (Connection refused (os error 111)); check the name and your network
    1 command required (or use --rm=false to start without a command)
    ");
    Ok(())
}

#[test]
fn an_environment_that_makes_no_sense() -> Result<()> {
    let home = Home::new()?;
    let loud = home.matchlock(["list"]).env("MATCHLOCK_LOG_LEVEL", "loud").run()?.exits_with(1)?;
    assert_eq!(loud.stderr(), "invalid MATCHLOCK_LOG_LEVEL loud: use debug, info, warn or error\n");
    for nowhere in ["", "here"] {
        let ended = home.matchlock(["list"]).env("HOME", nowhere).run()?.exits_with(1)?;
        assert_eq!(ended.stderr(), "HOME is not set to an absolute path: set it to your home folder\n");
    }
    let home = busybox()?;
    let kernel = home
        .matchlock(["run", "--image", BUSYBOX, "--", "true"])
        .env("MATCHLOCK_KERNEL", "/none")
        .run()?
        .exits_with(1)?;
    insta::assert_snapshot!(kernel.stderr(), @"start sandbox: kernel /none (MATCHLOCK_KERNEL): No such file or directory (os error 2)");
    Ok(())
}
