//! `bench start` in front of a user.

use anyhow::{Result, ensure};
use matchlock_tests::{BUSYBOX, busybox};
use serde_json::Value;

#[test]
fn a_machine_is_measured_and_nothing_stays() -> Result<()> {
    let home = busybox()?;
    let table = home.matchlock(["bench", "start", "--runs", "2"]).run()?.success()?.stdout();
    let header: Vec<_> = table.lines().next().unwrap_or_default().split_ascii_whitespace().collect();
    ensure!(header == ["WHAT", "P50", "P90", "P99"] && table.lines().count() == 4, "{table}");

    let arguments = ["bench", "start", "--runs=2", "--json", "--image", BUSYBOX, "--", "sleep", "0.1"];
    let json: Value = serde_json::from_str(&home.matchlock(arguments).run()?.success()?.stdout())?;
    ensure!(json["image"] == BUSYBOX && json["command"] == serde_json::json!(["sleep", "0.1"]) && json["runs"] == 2);
    let number = |of: &str, name: &str| json[of][name].as_f64().unwrap_or(-1.0);
    for of in ["start", "exec"] {
        ensure!(number(of, "p50_ms") >= 100.0, "the command takes so long: {json:#}");
        ensure!(
            number(of, "p50_ms") <= number(of, "p90_ms") && number(of, "p90_ms") <= number(of, "p99_ms"),
            "{json:#}"
        );
    }
    ensure!(number("start", "p50_ms") > number("exec", "p50_ms"), "{json:#}");
    // A supervisor and a machine with a kernel in it take up something, and less than the machine's whole memory.
    ensure!((1.0..512.0).contains(&number("idle_sandbox", "p50_mib")), "{json:#}");

    ensure!(home.matchlock(["list"]).run()?.success()?.stdout().lines().count() == 1, "sandboxes are left");
    Ok(())
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() -> Result<()> {
    let home = busybox()?;
    for (arguments, expected) in [
        (&["--runs", "0"][..], "--runs must be at least 1"),
        (&["--runs", "many"], "invalid argument"),
        (&["--image", "no/such image"], "parse image reference"),
        (&["--", "nonesuch"], "run: exec \"nonesuch\": not found"),
    ] {
        let output = home.matchlock([&["bench", "start"], arguments].concat()).run()?.exits_with(1)?;
        let errors = output.stderr();
        ensure!(errors.lines().count() == 1 && errors.starts_with(expected) && output.stdout.is_empty(), "{output}");
    }
    Ok(())
}
