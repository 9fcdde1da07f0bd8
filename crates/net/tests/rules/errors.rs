//! What is wrong with a policy file is said in one line.

use insta::assert_snapshot;
use matchlock_net::rules::{MAX_FILE, MAX_RULES, PolicyFile};

fn wrong(text: &str) -> String {
    let error = PolicyFile::parse("policy.toml", text).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A rule that allows `x.com`, with something more.
fn allow(more: &str) -> String {
    wrong(&format!("\n[[rule]]\naction = 'allow'\nhosts = ['x.com']\n{more}\n"))
}

#[test]
fn documents() {
    assert_snapshot!(wrong("network"), @"policy.toml:1: key with no value, expected `=`");
    assert_snapshot!(wrong("\n\n[network]\nallow = ['x.com'"), @"policy.toml:4: unclosed array, expected `]`");
    assert_snapshot!(wrong("[network]\nalow = []"), @"policy.toml:2: unknown key `alow`, expected one of `allow`, `allow_private`, `tls_passthrough`");
    assert_snapshot!(wrong("[networks]"), @"policy.toml:1: unknown key `networks`, expected `network` or `rule`");
    assert_snapshot!(wrong("[rule]\naction = 'block'"), @"policy.toml:1: a table stands where a list is wanted: one of a list is written [[rule]], or [{ … }]");
    assert_snapshot!(wrong("[network]\nallow = 'x.com'"), @r#"policy.toml:2: invalid type: string "x.com", expected a list (["…", "…"])"#);
    assert_snapshot!(wrong("[network]\nallow = ['x.com',\n'https://y.com/z']"), @r#"policy.toml:3: "https://y.com/z": a host is wanted, not a URL"#);
    assert_snapshot!(wrong("[network]\nallow_private = ['db:22']"), @r#"policy.toml:2: "db:22": whom a private address is allowed to is said without a port; --allow-host says the ports"#);
    assert_snapshot!(wrong("[network]\ntls_passthrough = ['10.0.0.1']"), @r#"policy.toml:2: "10.0.0.1": TLS is passed through by name; connections to an address that is allowed are not looked into anyway"#);
    assert_snapshot!(wrong("[network]\ntls_passthrough = ['a b']"), @r#"policy.toml:2: "a b": ' ' cannot be part of a host name"#);
    assert_eq!(wrong(&" ".repeat(MAX_FILE + 1)), "policy.toml:1: a policy file has at most 1048576 bytes");
    let many = "[[rule]]\naction = 'block'\n".repeat(MAX_RULES + 1);
    assert_eq!(wrong(&many), "policy.toml:2049: a policy has at most 1024 rules");
}

#[test]
fn rules() {
    assert_snapshot!(wrong("[network]\n\n[[rule]]\nhosts = ['x.com']"), @r#"policy.toml:3: a rule needs an `action`: "allow", "block", or "mutate", which only changes requests and responses"#);
    assert_snapshot!(wrong("[[rule]]\naction = 'deny'"), @"policy.toml:2: unknown variant `deny`, expected one of `allow`, `block`, `mutate`");
    assert_snapshot!(wrong("[[rule]]\naction = 'allow'\nmethods = ['GET']"), @"policy.toml:1: a rule that allows needs `hosts`: whom the requests may go to");
    assert_snapshot!(wrong("[[rule]]\naction = 'mutate'\nhosts = ['x.com']"), @r#"policy.toml:1: the rule changes nothing: a rule with action "mutate" has limits, edits or `replace`"#);
    assert_snapshot!(wrong("[[rule]]\naction = 'block'\nset_headers = { a = 'b' }"), @"policy.toml:1: a rule that blocks has nothing to change: without limits, edits and `replace`");
    assert_snapshot!(wrong("[[rule]]\naction = 'block'\nname = 'a'\n[[rule]]\naction = 'block'\nname = 'a'"), @r#"policy.toml:4: another rule is called "a", too"#);
    assert_snapshot!(wrong("[[rule]]\naction = 'block'\nname = ''"), @"policy.toml:3: the name of a rule has 1 to 100 characters and no control characters");
    assert_snapshot!(wrong("[[rule]]\naction = 'block'\nmetods = ['GET']"), @"policy.toml:3: unknown key `metods`, expected one of `name`, `action`, `hosts`, `methods`, `paths`, `max_request_bytes`, `max_response_bytes`, `set_headers`, `delete_headers`, `set_query`, `delete_query`, `rewrite_path`, `set_response_headers`, `delete_response_headers`, `replace`");
    assert_snapshot!(wrong("[[rule]]\naction = 'block'\nhosts = []"), @"policy.toml:3: `hosts` is empty, so the rule never fits; without it the rule fits every one");
}

#[test]
fn hosts_that_cannot_be_looked_into() {
    assert_snapshot!(wrong("[[rule]]\naction = 'allow'\nhosts = ['*']\nmethods = ['GET']"), @"policy.toml:3: * means addresses, too, and connections to these are not looked into; *.* is every name with a dot in it");
    assert_snapshot!(wrong("[[rule]]\naction = 'block'\nhosts = [\n'x.com',\n'10.0.0.0/8:80']"), @"policy.toml:5: 10.0.0.0/8:80 is no name, and connections to an address are not looked into: the rule would have no effect on them");
    assert_snapshot!(
        wrong("[network]\ntls_passthrough = ['*.x.com']\n[[rule]]\nname = 'r'\naction = 'block'\nhosts = ['a.x.com']"),
        @r#"policy.toml:2: *.x.com: rule "r" goes by its requests, which cannot be seen in TLS that is passed through"#
    );
    // What only opens hosts is not about requests.
    let fine = "[network]\ntls_passthrough = ['x.com']\n[[rule]]\naction = 'allow'\nhosts = ['x.com', '10.0.0.5', '*']";
    assert_eq!(PolicyFile::parse("policy.toml", fine).unwrap().allowed.len(), 3);
}

#[test]
fn values() {
    assert_snapshot!(allow("hosts = ['y.com']"), @"policy.toml:5: duplicate key");
    assert_snapshot!(allow("methods = ['get']"), @r#"policy.toml:5: "get" is no method; methods are written as in requests (GET, POST)"#);
    assert_snapshot!(allow("methods = ['GET POST']"), @r#"policy.toml:5: "GET POST" is no method; methods are written as in requests (GET, POST)"#);
    assert_snapshot!(allow("paths = ['/a', 'b']"), @r#"policy.toml:5: "b": a pattern of paths begins with /"#);
    assert_snapshot!(allow("max_request_bytes = '10 megabytes'"), @r#"policy.toml:5: invalid value: string "10 megabytes", expected a number of bytes (4096) or a text with its unit ("64kB", "10MB", "1GB": powers of 1000; "64KiB", "10MiB", "1GiB": of 1024)"#);
    assert_snapshot!(allow("max_request_bytes = -1"), @r#"policy.toml:5: invalid value: integer `-1`, expected a number of bytes (4096) or a text with its unit ("64kB", "10MB", "1GB": powers of 1000; "64KiB", "10MiB", "1GiB": of 1024)"#);
    assert_snapshot!(allow("max_request_bytes = '99999999999GB'"), @r#"policy.toml:5: invalid value: string "99999999999GB", expected a number of bytes (4096) or a text with its unit ("64kB", "10MB", "1GB": powers of 1000; "64KiB", "10MiB", "1GiB": of 1024)"#);
    assert_snapshot!(allow("max_request_bytes = 1.5"), @r#"policy.toml:5: invalid type: floating point `1.5`, expected a number of bytes (4096) or a text with its unit ("64kB", "10MB", "1GB": powers of 1000; "64KiB", "10MiB", "1GiB": of 1024)"#);
    assert_snapshot!(allow("set_headers = { 'a b' = 'c' }"), @r#"policy.toml:5: "a b" is no name of a header"#);
    assert_snapshot!(allow("set_headers = { a = \"b\\r\\nc\" }"), @"policy.toml:5: the value of a is to be of visible ASCII characters, spaces and tabs");
    assert_snapshot!(allow("set_headers = { A = 'b', a = 'c' }"), @"policy.toml:5: a is set twice: upper and lower case are the same");
    assert_snapshot!(allow("set_headers = { Host = 'y.com' }"), @"policy.toml:5: host says whom a message is for or where it ends, so no rule can set or delete it");
    assert_snapshot!(allow("delete_headers = [':authority']"), @"policy.toml:5: :authority says whom a message is for or where it ends, so no rule can set or delete it");
    assert_snapshot!(allow("set_response_headers = { Content-Length = '1' }"), @"policy.toml:5: content-length says whom a message is for or where it ends, so no rule can set or delete it");
    assert_snapshot!(allow("delete_response_headers = ['Transfer-Encoding']"), @"policy.toml:5: transfer-encoding says whom a message is for or where it ends, so no rule can set or delete it");
    assert_snapshot!(allow("rewrite_path = 'v2'"), @"policy.toml:5: the path does not begin with /");
    assert_snapshot!(allow("rewrite_path = '/v2?a=b'"), @"policy.toml:5: a rewritten path has no ? or #; `set_query` sets the query");
    assert_snapshot!(allow("replace = [{ find = '', with = 'b' }]"), @"policy.toml:5: a text to be replaced cannot be empty");
    assert_snapshot!(allow("replace = [{ find = 'a' }]"), @"policy.toml:5: missing key `with`");
    assert_snapshot!(allow(&format!("replace = [{{ find = '{}', with = '' }}]", "a".repeat(4097))), @"policy.toml:5: a text to be replaced has at most 4096 bytes, and so has what replaces it");
}

#[test]
fn sizes() {
    let size = |text: &str| {
        let rules = crate::rules(&format!("[[rule]]\naction = 'mutate'\nmax_request_bytes = {text}"));
        crate::asked(&rules, "x.com", "GET /").unwrap().0.max_request_bytes.unwrap()
    };
    let sizes = [
        ("0", 0),
        ("'7B'", 7),
        ("'64kB'", 64_000),
        ("'64KB'", 64_000),
        ("'10 MB'", 10_000_000),
        ("'1gb'", 1_000_000_000),
    ];
    for (text, bytes) in sizes.into_iter().chain([("'64KiB'", 65_536), ("'10MiB'", 10_485_760), ("'1GiB'", 1 << 30)]) {
        assert_eq!(size(text), bytes, "{text}");
    }
}
