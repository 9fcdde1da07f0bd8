//! What is changed in a request.

use http::HeaderMap;
use insta::assert_snapshot;

use crate::{asked, host, request, rules, told};

fn shown(headers: &HeaderMap) -> String {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn headers_are_set_and_deleted_in_all_their_lines() {
    let rules = rules(
        r#"
        [[rule]]
        action = "mutate"
        set_headers = { X-Team = "blue", User-Agent = "agent" }
        delete_headers = ["Cookie", "X-Absent"]
        "#,
    );
    let mut parts = request("GET /");
    for (name, value) in
        [("x-team", "red"), ("x-team", "green"), ("cookie", "a=b"), ("cookie", "c=d"), ("accept", "*/*")]
    {
        parts.headers.append(name, value.parse().unwrap());
    }
    rules.request(&host("x.com"), 443, &mut parts).unwrap();
    assert_snapshot!(shown(&parts.headers), @"
    accept: */*
    user-agent: agent
    x-team: blue
    ");
}

#[test]
fn queries_are_edited_by_decoded_keys_and_otherwise_left() {
    let rules = rules(
        r#"
        [[rule]]
        action = "mutate"
        set_query = { "api key" = "a&b=c d" }
        delete_query = ["debug"]
        "#,
    );
    let became = |query: &str| told(&rules, "x.com", &format!("GET /%7Ea{query}")).replace("GET /%7Ea", "");
    assert_eq!(became(""), "?api%20key=a%26b%3Dc%20d");
    assert_eq!(became("?z=%7e&api+key=1&a&api%20key=2&b="), "?z=%7e&api%20key=a%26b%3Dc%20d&a&b=");
    assert_eq!(became("?debug&d%65bug=1&debu=1"), "?debu=1&api%20key=a%26b%3Dc%20d");
}

#[test]
fn a_query_of_which_nothing_is_left_is_none() {
    let rules = rules("[[rule]]\naction = 'mutate'\ndelete_query = ['a']");
    assert_eq!(told(&rules, "x.com", "GET /?a=1"), "GET /");
    assert_eq!(told(&rules, "x.com", "GET /?b"), "GET /?b");
}

#[test]
fn rules_go_by_what_the_guest_has_sent_and_change_in_order() {
    let rules = rules(
        r#"
        [[rule]]
        name = "old"
        action = "mutate"
        paths = ["/v1/**"]
        rewrite_path = "/v2/x y"
        set_headers = { x-a = "1" }
        [[rule]]
        name = "new"
        action = "mutate"
        paths = ["/v2/**"]
        set_headers = { x-a = "2" }
        [[rule]]
        name = "last"
        action = "mutate"
        set_headers = { x-b = "3" }
        delete_headers = ["x-a"]
        "#,
    );
    let (matched, parts) = asked(&rules, "x.com", "GET https://x.com/v1/y?q").unwrap();
    assert_eq!(matched.names().collect::<Vec<_>>(), ["old", "last"]);
    assert_eq!(parts.uri, "https://x.com/v2/x%20y?q");
    assert_eq!(shown(&parts.headers), "x-b: 3");
}

#[test]
fn a_target_that_becomes_too_long_is_refused() {
    let rules = rules(&format!("[[rule]]\naction = 'mutate'\nset_query = {{ a = '{}' }}", "x".repeat(70_000)));
    assert_eq!(told(&rules, "x.com", "GET /"), "! path and query are too long after the rules' changes");
}

#[test]
fn where_texts_are_replaced_servers_are_asked_for_the_whole_and_plain() {
    let rules = rules(
        "[[rule]]\naction = 'mutate'\nset_headers = { accept-encoding = 'br' }\nreplace = [{ find = 'a', with = 'b' }]",
    );
    let mut parts = request("GET /");
    for (name, value) in [("accept-encoding", "gzip"), ("range", "bytes=0-3"), ("if-range", "\"x\"")] {
        parts.headers.append(name, value.parse().unwrap());
    }
    rules.request(&host("x.com"), 443, &mut parts).unwrap();
    assert_eq!(shown(&parts.headers), "accept-encoding: identity");
}
