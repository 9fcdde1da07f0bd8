//! Rules as clients of the protocol send them.

use insta::assert_snapshot;
use matchlock_model::{Interception, InterceptionRule};
use matchlock_net::rules::rpc::{Compiled, compile};

use crate::{asked, host, request, table, told};

fn sent(json: &str) -> Vec<InterceptionRule> {
    serde_json::from_str::<Interception>(json).unwrap().rules
}

fn compiled(json: &str) -> Compiled {
    compile(&sent(json)).unwrap()
}

fn wrong(json: &str) -> String {
    compile(&sent(json)).unwrap_err().to_string()
}

fn ignored(json: &str) -> String {
    compiled(json).ignored.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn empty_fields_are_left_out_sent_empty_or_null() {
    let null = r#"{"rules":[{"name":null,"phase":null,"hosts":null,"methods":null,"path":null,"action":"block","set_headers":null,
        "delete_headers":null,"set_query":null,"delete_query":null,"rewrite_path":null,"set_response_headers":null,
        "delete_response_headers":null,"body_replacements":null,"timeout_ms":null,"callback_id":null}],"callback_socket":null}"#;
    assert_eq!(sent(null), sent(r#"{"rules":[{"action":"block"}]}"#));
    assert_eq!(
        sent(null),
        sent(r#"{"rules":[{"action":"block","hosts":[],"path":"","timeout_ms":0}],"callback_socket":""}"#)
    );
    assert_eq!(sent(r#"{"rules":null}"#), []);
    let round = serde_json::to_string(&sent(null)[0]).unwrap();
    assert_eq!(round, r#"{"action":"block"}"#);
}

#[test]
fn rules_apply_in_order_until_one_blocks() {
    let compiled = compiled(
        r#"{"rules":[
            {"name":"inject","hosts":["API.x.com","*.y.com"],"methods":["get","Post"],"path":"/v1/*","action":"mutate",
             "set_headers":{"X-A":"1","":"2"},"delete_headers":["cookie"," "],"set_query":{"k":"v"},"delete_query":["d"],"rewrite_path":"/v2"},
            {"name":"guard","hosts":["*"],"path":"/admin/*","action":" Block "},
            {"name":"answer","phase":"after","set_response_headers":{"x-b":"2"},"body_replacements":[{"find":"a"},{"find":"","replace":"b"}]}
        ]}"#,
    );
    assert_eq!(compiled.rules.len(), 3);
    assert!(compiled.ignored.is_empty());
    let given = [
        "GET /v1/x?d=1&e=2",
        "post /v1/x",
        "DELETE /v1/x",
        "GET /v1/x/y",
        "GET /admin/x",
        "GET /%61dmin//x",
        "GET /admin/x/y",
    ];
    assert_snapshot!(table(given, |line| told(&compiled.rules, "api.x.com", line)), @"
    GET /v1/x?d=1&e=2                    GET /v2?e=2&k=v
    post /v1/x                           post /v2?k=v
    DELETE /v1/x                         DELETE /v1/x
    GET /v1/x/y                          GET /v1/x/y
    GET /admin/x                         ! blocked by a rule (guard)
    GET /%61dmin//x                      ! blocked by a rule (guard)
    GET /admin/x/y                       GET /admin/x/y
    ");
    let (matched, parts) = asked(&compiled.rules, "a.y.com", "GET /v1/x").unwrap();
    assert_eq!(matched.names().collect::<Vec<_>>(), ["inject", "answer"]);
    assert_eq!(parts.headers["x-a"], "1");
    let mut response = http::Response::new(()).into_parts().0;
    let mut rewriter = matched.response(&mut response).unwrap().unwrap();
    assert_eq!(response.headers["x-b"], "2");
    assert_eq!(rewriter.feed(b"banana").unwrap(), b"bnn");
    // Any port, as hosts have none here.
    assert!(compiled.rules.request(&host("x.com"), 8080, &mut request("GET /admin/x")).is_err());
}

#[test]
fn allowing_allows_nothing_and_forbids_nothing() {
    // `allow` with changes is `mutate`.
    let compiled =
        compiled(r#"{"rules":[{"action":"allow","hosts":["x.com"],"path":"/a","set_headers":{"x-a":"1"}}]}"#);
    assert_eq!(told(&compiled.rules, "x.com", "GET /b"), "GET /b");
    assert_eq!(asked(&compiled.rules, "x.com", "GET /a").unwrap().1.headers["x-a"], "1");
}

#[test]
fn what_does_nothing_is_dropped_and_told() {
    assert_snapshot!(
        ignored(
            r#"{"rules":[
                {"name":"allow"},
                {"name":"wrong phase","phase":"after","set_headers":{"x-a":"1"}},
                {"phase":"before","body_replacements":[{"find":"a"}]},
                {"name":"blank","set_headers":{" ":"1"},"delete_query":[""]},
                {"name":"path","action":"block","path":"/a[","hosts":["x.com"]},
                {"name":"relative","action":"block","path":"*"},
                {"name":"host","action":"block","hosts":["x.com:443","https://x.com",""]}
            ]}"#
        ),
        @r#"
        rule "allow": it neither blocks nor changes anything in its phase
        rule "wrong phase": it neither blocks nor changes anything in its phase
        rule "rule 3": it neither blocks nor changes anything in its phase
        rule "blank": it neither blocks nor changes anything in its phase
        rule "path": the path "/a[" never fits: [ begins a set of characters ([0-9], [^a-z]) and needs its ]; \[ is the character
        rule "relative": the path "*" never fits: a pattern of paths begins with /
        rule "host": the host "x.com:443" never fits: not an IPv6 address
        rule "host": the host "https://x.com" never fits: a host is wanted, not a URL
        rule "host": the host "" never fits: a host name cannot be empty
        "#
    );
}

#[test]
fn patterns_that_are_none_never_fit() {
    let compiled = compiled(
        r#"{"rules":[{"action":"block","path":"/a["},{"action":"block","hosts":["x.com:443"]},{"action":"block","hosts":[""]}]}"#,
    );
    assert_eq!((compiled.rules.len(), compiled.ignored.len()), (3, 3));
    assert_eq!(told(&compiled.rules, "x.com", "GET /a["), "GET /a%5B");
}

#[test]
fn paths_have_the_wildcards_of_globs() {
    let compiled = compiled(r#"{"rules":[{"action":"block","path":"/v?/[a-c]%20*"}]}"#);
    let given = ["GET /v1/a%2520x", "GET /v1/d%2520x", "GET /v12/a%2520", "GET /v1/a%20x"];
    assert_snapshot!(table(given, |line| told(&compiled.rules, "x.com", line)), @"
    GET /v1/a%2520x                      ! blocked by a rule (rule 1)
    GET /v1/d%2520x                      GET /v1/d%2520x
    GET /v12/a%2520                      GET /v12/a%2520
    GET /v1/a%20x                        GET /v1/a%20x
    ");
}

#[test]
fn what_is_not_carried_out_is_refused_by_name() {
    assert_snapshot!(wrong(r#"{"rules":[{"action":"block"},{"callback_id":"network_hook_2"}]}"#), @r#"rule "rule 2": callback rules need the SDK's server, which is not asked yet; only static rules are carried out"#);
    assert_snapshot!(wrong(r#"{"rules":[{"name":"a","action":"block","hosts":["10.0.0.5"]}]}"#), @r#"rule "a": 10.0.0.5 is no name, and connections to an address are not looked into"#);
    assert_snapshot!(wrong(r#"{"rules":[{"name":"a","set_headers":{"Host":"x.com"}}]}"#), @r#"rule "a": host says whom a message is for or where it ends, so no rule can set or delete it"#);
    assert_snapshot!(wrong(r#"{"rules":[{"name":"a","phase":"after","delete_response_headers":["content-length"]}]}"#), @r#"rule "a": content-length says whom a message is for or where it ends, so no rule can set or delete it"#);
    assert_snapshot!(wrong(r#"{"rules":[{"name":"a","rewrite_path":"v2"}]}"#), @r#"rule "a": the path does not begin with /"#);
    let many = format!(r#"{{"rules":[{}]}}"#, vec!["{}"; 1025].join(","));
    assert_eq!(wrong(&many), "1025 rules are more than the 1024 that one sandbox can have");
}
