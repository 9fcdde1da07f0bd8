//! Which requests go through.

use insta::assert_snapshot;

use crate::{asked, host, policy, request, rules, table, told};

const GITHUB: &str = r#"
    [[rule]]
    name = "read repositories"
    action = "allow"
    hosts = ["api.github.com:443"]
    methods = ["GET"]
    paths = ["/repos/**"]

    [[rule]]
    name = "comment"
    action = "allow"
    hosts = ["api.github.com:443"]
    methods = ["POST"]
    paths = ["/repos/*/*/issues/*/comments"]
    max_request_bytes = "64kB"

    [[rule]]
    name = "no deploy keys"
    action = "block"
    hosts = ["*.github.com"]
    paths = ["/repos/*/*/keys/**"]
"#;

#[test]
fn what_is_allowed_of_a_host_is_all_that_it_gets() {
    let rules = rules(GITHUB);
    let given = [
        "GET /repos/a/b",
        "GET /repos/a/b?x=y",
        "POST /repos/a/b/issues/1/comments",
        "POST /repos/a/b",
        "GET /user",
        "get /repos/a/b",
        "HEAD /repos/a/b",
        "GET /repos/a/b/keys",
        "GET /repos/a/b/keys/1",
    ];
    assert_snapshot!(table(given, |line| told(&rules, "api.github.com", line)), @"
    GET /repos/a/b                       GET /repos/a/b
    GET /repos/a/b?x=y                   GET /repos/a/b?x=y
    POST /repos/a/b/issues/1/comments    POST /repos/a/b/issues/1/comments
    POST /repos/a/b                      ! no rule allows POST /repos/a/b of api.github.com
    GET /user                            ! no rule allows GET /user of api.github.com
    get /repos/a/b                       ! no rule allows get /repos/a/b of api.github.com
    HEAD /repos/a/b                      ! no rule allows HEAD /repos/a/b of api.github.com
    GET /repos/a/b/keys                  ! blocked by a rule (no deploy keys)
    GET /repos/a/b/keys/1                ! blocked by a rule (no deploy keys)
    ");
    // Other hosts, and other ports, are not for these rules to allow.
    assert_eq!(told(&rules, "x.com", "DELETE /user"), "DELETE /user");
    assert_eq!(told(&rules, "uploads.github.com", "DELETE /user"), "DELETE /user");
    assert!(rules.request(&host("api.github.com"), 80, &mut request("DELETE /user")).is_ok());
    assert_eq!(told(&rules, "uploads.github.com", "GET /repos/a/b/keys"), "! blocked by a rule (no deploy keys)");
}

#[test]
fn the_matched_rules_are_named_and_the_least_limit_counts() {
    let rules = rules(
        r#"
        [[rule]]
        name = "a"
        action = "mutate"
        max_request_bytes = 100
        max_response_bytes = "1KiB"
        [[rule]]
        name = "b"
        action = "mutate"
        hosts = ["x.com"]
        max_request_bytes = "1kB"
        max_response_bytes = 1000
        [[rule]]
        name = "c"
        action = "mutate"
        methods = ["PUT"]
        max_request_bytes = 0
        "#,
    );
    let (matched, _) = asked(&rules, "x.com", "POST /").unwrap();
    assert_eq!(matched.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((matched.max_request_bytes, matched.max_response_bytes), (Some(100), Some(1000)));
    let mut announced = request("POST /");
    announced.headers.insert("content-length", 101.into());
    let blocked = rules.request(&host("x.com"), 443, &mut announced).unwrap_err();
    assert_eq!(blocked.to_string(), "a body of 101 bytes is more than the rule lets through (a)");
}

#[test]
fn a_method_cannot_be_asked_for_in_a_header() {
    let rules = rules(
        r#"
        [[rule]]
        action = "allow"
        hosts = ["x.com"]
        methods = ["GET", "POST"]
        [[rule]]
        name = "keep"
        action = "block"
        hosts = ["y.com"]
        methods = ["DELETE"]
        "#,
    );
    for (at, why) in [
        ("x.com", "no rule allows POST / of x.com, which asks to be taken for another method"),
        ("y.com", "blocked by a rule (keep)"),
    ] {
        assert_eq!(told(&rules, at, "POST /"), "POST /");
        for header in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
            let mut parts = request("POST /");
            parts.headers.insert(header, " delete ".parse().unwrap());
            assert_eq!(rules.request(&host(at), 443, &mut parts).unwrap_err().to_string(), why);
        }
        assert_eq!(told(&rules, at, "POST /?a=b&%5Fmethod=delete"), format!("! {why}"));
    }
    assert_eq!(told(&rules, "y.com", "Delete /"), "! blocked by a rule (keep)");
}

#[test]
fn hosts_are_compared_as_everywhere() {
    let rules = rules("[[rule]]\naction = 'block'\nhosts = ['API.x.com.', '*.evil.com:*']");
    assert_eq!(told(&rules, "api.X.com", "GET /"), "! blocked by a rule (rule 1)");
    assert_eq!(told(&rules, "evil.com", "GET /"), "GET /");
    let blocked = |at, port| rules.request(&host(at), port, &mut request("GET /")).is_err();
    assert!(blocked("a.b.evil.com", 8443) && !blocked("api.x.com", 8443));
}

#[test]
fn what_rules_are_about_has_to_be_looked_into() {
    let rules = rules(
        r#"
        [[rule]]
        action = "allow"
        hosts = ["plain.com"]
        [[rule]]
        action = "allow"
        hosts = ["x.com:8080"]
        methods = ["GET"]
        [[rule]]
        action = "mutate"
        delete_headers = ["x-a"]
        "#,
    );
    let concern = |at, port| rules.concern(&host(at), port);
    assert!(concern("x.com", 8080));
    assert!(!concern("x.com", 443) && !concern("plain.com", 443) && !concern("y.com", 443));
}

#[test]
fn hosts_of_rules_that_allow_are_on_the_allow_list() {
    let policy = policy(
        r#"
        [network]
        allow = ["a.com", "db:5432"]
        allow_private = ["db", "10.0.0.0/8"]
        tls_passthrough = ["*.pinned.com"]
        [[rule]]
        action = "allow"
        hosts = ["a.com", "b.com:8443"]
        [[rule]]
        action = "block"
        hosts = ["c.com"]
        "#,
    );
    let shown: Vec<_> = policy.allowed.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["a.com", "db:5432", "b.com:8443"]);
    assert_eq!(policy.allow_private, [("db".parse().unwrap()), ("10.0.0.0/8".parse().unwrap())]);
    assert_eq!(policy.passthrough, ["*.pinned.com".parse().unwrap()]);
    assert_eq!(policy.rules.len(), 2);
}
