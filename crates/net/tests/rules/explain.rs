//! `matchlock policy explain` of a request, as it reads.

use http::Method;
use insta::assert_snapshot;
use matchlock_net::{
    policy::{Mode, Policy},
    rules::explain,
};

use crate::policy;

const POLICY: &str = r#"
    [[rule]]
    name = "read"
    action = "allow"
    hosts = ["api.x.com"]
    methods = ["GET"]
    paths = ["/v1/**"]
    max_request_bytes = 0

    [[rule]]
    name = "no keys"
    action = "block"
    paths = ["/v1/keys/**"]

    [[rule]]
    name = "be blue"
    action = "mutate"
    set_headers = { x-team = "blue" }
    delete_headers = ["cookie"]
    set_query = { team = "blue" }
    rewrite_path = "/blue"
    max_response_bytes = "1kB"
    set_response_headers = { x-seen = "yes" }
    replace = [{ find = "red", with = "blue" }]
"#;

fn told(method: &Method, text: &str, resolved: &[&str]) -> String {
    let file = policy(POLICY);
    let policy = Policy { mode: Mode::Intercept, allowed: file.allowed, ..Policy::default() };
    let resolved = Ok(resolved.iter().map(|text| text.parse().unwrap()).collect());
    match explain(&policy, &file.rules, method, text, &resolved) {
        Ok(explained) => explained.lines().join("\n"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn which_rules_a_request_fits_and_what_they_do() {
    assert_snapshot!(told(&Method::GET, "https://api.x.com/v1/models?token=x#y", &["1.2.3.4"]), @r#"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host api.x.com
    1.2.3.4      allowed by --allow-host api.x.com
    request      GET /v1/models
    rule         "read" allows it: its body has at most 0 bytes
    rule         "be blue" changes it: the response's body has at most 1000 bytes; sets x-team, deletes cookie; sets team in the query; goes to /blue; in the response, sets x-seen; replaces a text of the response
    answer       allowed
    "#);
    assert_snapshot!(told(&Method::DELETE, "https://api.x.com/v1/models", &["1.2.3.4"]), @r#"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host api.x.com
    1.2.3.4      allowed by --allow-host api.x.com
    request      DELETE /v1/models
    rule         "be blue" changes it: the response's body has at most 1000 bytes; sets x-team, deletes cookie; sets team in the query; goes to /blue; in the response, sets x-seen; replaces a text of the response
    answer       denied: no rule allows DELETE /v1/models of api.x.com
    "#);
    assert_snapshot!(told(&Method::GET, "https://api.x.com/v1/keys/1", &[]), @r#"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host api.x.com
    request      GET /v1/keys/1
    rule         "read" allows it: its body has at most 0 bytes
    rule         "no keys" blocks it
    rule         "be blue" changes it: the response's body has at most 1000 bytes; sets x-team, deletes cookie; sets team in the query; goes to /blue; in the response, sets x-seen; replaces a text of the response
    answer       denied: blocked by a rule
    "#);
    assert_snapshot!(told(&Method::GET, "api.x.com", &[]), @r#"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host api.x.com
    request      GET /
    rule         "be blue" changes it: the response's body has at most 1000 bytes; sets x-team, deletes cookie; sets team in the query; goes to /blue; in the response, sets x-seen; replaces a text of the response
    answer       denied: no rule allows GET / of api.x.com
    "#);
    assert_snapshot!(told(&Method::GET, "https://y.com/v1/keys", &[]), @"
    destination  y.com, TCP port 443
    name         denied: host not in allowlist (--allow-host y.com would allow it)
    answer       denied: the name is not resolved
    ");
    assert_snapshot!(told(&Method::GET, "https://api.x.com/%zz", &[]), @"
    destination  api.x.com, TCP port 443
    name         allowed by --allow-host api.x.com
    request      GET /%zz
    answer       denied: the path has a % that begins no escape, and rules go by the path
    ");
    assert_snapshot!(told(&Method::GET, "https://api.x.com/a b", &[]), @r#""/a b" cannot be the path of a URL: characters of no URL are escaped (a space is %20)"#);
    assert_snapshot!(told(&Method::GET, "gopher://api.x.com/", &[]), @"which port gopher:// uses is not known here: add it to the host");
}
