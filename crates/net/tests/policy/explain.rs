//! `matchlock policy explain`, as it reads.

use insta::assert_snapshot;
use matchlock_net::policy::{Policy, explain};

use crate::{intercept, ip, name, private};

fn told(policy: &Policy, text: &str, resolved: &[&str]) -> String {
    match explain(policy, text, &Ok(resolved.iter().map(|text| ip(text)).collect())) {
        Ok(explained) => explained.lines().join("\n"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_allowed_and_what_would_be() {
    let added = vec![(name("db"), ip("10.0.0.5"))];
    let policy = Policy { added, ..private(intercept(&["*.x.com", "db:5432"]), &["db"]) };
    assert_snapshot!(told(&policy, "https://user@API.x.com/v1?a=b", &["1.2.3.4", "10.0.0.7"]), @"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host *.x.com
    1.2.3.4      allowed by --allow-host *.x.com
    10.0.0.7     denied: 10.0.0.7 is a private address (--allow-private-host 10.0.0.7 would allow it)
    answer       allowed
    ");
    assert_snapshot!(told(&policy, "https://api.x.com:8443/", &["1.2.3.4"]), @"
    destination  api.x.com, TCP port 8443
    name         allowed by --allow-host *.x.com
    1.2.3.4      denied: host not in allowlist with port 8443 (--allow-host api.x.com:8443 would allow it)
    answer       denied
    ");
    assert_snapshot!(told(&policy, "api.x.com", &[]), @"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host *.x.com
    answer       not known: no resolver knows an address of api.x.com
    ");
    let failed = Err("api.x.com is not resolved: 192.0.2.53:53: answers SERVFAIL".to_owned());
    assert_snapshot!(explain(&policy, "api.x.com", &failed).unwrap().lines().join("\n"), @"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host *.x.com
    answer       not known: api.x.com is not resolved: 192.0.2.53:53: answers SERVFAIL
    ");
    assert_snapshot!(told(&policy, "evil.com:22", &["1.2.3.4"]), @"
    destination  evil.com, TCP port 22
    name         denied: host not in allowlist with port 22 (--allow-host evil.com:22 would allow it)
    answer       denied: the name is not resolved
    ");
    assert_snapshot!(told(&policy, "postgres://db/table", &[]), @"
    destination  db, TCP port 5432
    name         allowed by --add-host
    10.0.0.5     allowed by --allow-host db:5432 and --allow-private-host db
    answer       allowed
    ");
    assert_snapshot!(told(&policy, "http://[::ffff:169.254.169.254]/latest", &[]), @"
    destination  169.254.169.254, TCP port 80
    169.254.169.254 denied: host not in allowlist (--allow-host 169.254.169.254:80 --allow-private-host 169.254.169.254 would allow it)
    answer       denied
    ");
}

#[test]
fn what_is_no_destination() {
    let policy = intercept(&[]);
    for (text, why) in [
        ("gopher://x.com/", "which port gopher:// uses is not known here: add it to the host"),
        ("https://", "a host name cannot be empty"),
        ("http://0x7f.1/", "a host name cannot end in a number; an IPv4 address has four decimal numbers (127.0.0.1)"),
    ] {
        assert_eq!(told(&policy, text, &[]), why);
    }
}
