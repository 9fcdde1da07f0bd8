//! What becomes of responses: changed, or refused where the rules could not be kept.

use http::{Response, response::Parts};
use insta::assert_snapshot;
use matchlock_net::rules::{BodyRewriter, Matched, Refused};

use crate::{asked, rules};

const RULES: &str = r#"
    [[rule]]
    action = "mutate"
    max_response_bytes = 100
    set_response_headers = { X-Seen = "yes" }
    delete_response_headers = ["Set-Cookie", "Content-Encoding"]
    replace = [{ find = "cat", with = "dog" }]
"#;

fn matched(line: &str) -> Matched {
    asked(&rules(RULES), "x.com", line).unwrap().0
}

fn response(status: u16, headers: &[(&str, &str)]) -> Parts {
    let builder =
        headers.iter().fold(Response::builder().status(status), |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

fn answered(line: &str, status: u16, headers: &[(&str, &str)]) -> (Result<Option<BodyRewriter>, Refused>, String) {
    let mut parts = response(status, headers);
    let answer = matched(line).response(&mut parts);
    let mut shown: Vec<_> =
        parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    shown.sort();
    (answer, shown.join("\n"))
}

#[test]
fn headers_are_changed_and_what_told_of_the_old_body_is_gone() {
    let given = [
        ("set-cookie", "a=b"),
        ("content-type", "text/plain"),
        ("content-length", "100"),
        ("content-encoding", "identity"),
        ("accept-ranges", "bytes"),
        ("digest", "sha-256=x"),
        ("repr-digest", "sha-256=:x:"),
    ];
    let (answer, headers) = answered("GET /", 200, &given);
    assert!(answer.unwrap().is_some());
    assert_snapshot!(headers, @"
    content-type: text/plain
    x-seen: yes
    ");
}

#[test]
fn a_response_without_a_body_keeps_its_length() {
    for (line, status) in [("HEAD /", 200), ("GET /", 304), ("GET /", 204)] {
        let (answer, headers) = answered(line, status, &[("content-length", "1000"), ("content-encoding", "gzip")]);
        assert!(answer.unwrap().is_none());
        assert_eq!(headers, "content-length: 1000\nx-seen: yes");
    }
}

#[test]
fn what_the_rules_cannot_be_kept_on_is_refused() {
    let refused = |status, headers: &[(&str, &str)]| {
        let (answer, left) = answered("GET /", status, headers);
        assert!(!left.contains("x-seen"), "the response is as it was");
        answer.unwrap_err().to_string()
    };
    assert_snapshot!(refused(200, &[("content-encoding", "gzip")]), @"texts of the response are to be replaced, but it came compressed (gzip)");
    assert_snapshot!(refused(200, &[("content-encoding", "identity"), ("content-encoding", "BR")]), @"texts of the response are to be replaced, but it came compressed (identity, BR)");
    assert_snapshot!(refused(206, &[("content-range", "bytes 0-3/10")]), @"texts of the response are to be replaced, but only a part of it came");
    assert_snapshot!(refused(101, &[]), @"texts of the response are to be replaced, but the connection becomes another protocol's");
    assert_snapshot!(refused(200, &[("content-length", "101")]), @"the response's body of 101 bytes is more than the 100 that a rule lets through");
}

#[test]
fn without_texts_to_replace_bodies_are_left_alone() {
    let rules = rules("[[rule]]\naction = 'mutate'\nset_response_headers = { a = 'b' }");
    let (matched, _) = asked(&rules, "x.com", "GET /").unwrap();
    let mut parts = response(206, &[("content-encoding", "gzip"), ("content-length", "5")]);
    assert!(matched.response(&mut parts).unwrap().is_none());
    assert_eq!(parts.headers["content-length"], "5");
    assert!(Matched::default().response(&mut response(101, &[])).unwrap().is_none());
}
