//! Rules about requests, on a connection. What they say is `tests/rules`' matter; here it is that they are gone by.

use std::io::Write;

use super::{
    Intercepted, Story, Wanted, intercepted,
    talk::{Talk, connect, connect_tls, serve, serve_tls, telling},
};
use crate::world::{SERVER4, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_rules_change_requests_and_responses", changed),
    ("intercept_rules_block_requests_and_say_so", blocked),
    ("intercept_rules_limit_bodies_both_ways", limited),
    ("intercept_rules_are_gone_by_on_every_port", other_ports),
    ("intercept_rules_about_every_host_are_gone_by_on_every_port", every_host),
    ("intercept_rules_let_nothing_through_that_is_not_http", not_http),
];

fn ruled(rules: &str) -> Intercepted {
    intercepted(Wanted { hosts: "api.x.com", rules, ..Wanted::default() })
}

fn talk(it: &Intercepted) -> Talk {
    connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap()
}

fn changed() {
    let it = ruled(
        "[[rule]]\nname = 'change'\naction = 'mutate'\nhosts = ['api.x.com']\nset_headers = { X-Set = '1' }\n\
         set_query = { k = 'v' }\nreplace = [{ find = 'worse', with = 'better' }]\n",
    );
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        tell.send(talk.message()).unwrap();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nit's wo");
        talk.say("rse");
    });
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it);
        talk.say("GET /a HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        let response = talk.message();
        let body: String = response.split("\r\n\r\n").nth(1).unwrap().lines().skip(1).step_by(2).collect();
        assert_eq!(body, "it's better", "{response}");
    });
    let request = heard.next();
    assert!(request.starts_with("GET /a?k=v HTTP/1.1\r\n") && request.contains("x-set: 1\r\n"), "{request}");
    assert_eq!(it.request(), "GET https://api.x.com:443/a 200 0>11 [change] by --allow-host api.x.com done");
}

fn blocked() {
    let it = ruled("[[rule]]\nname = 'no admin'\naction = 'block'\nhosts = ['api.x.com']\npaths = ['/admin/**']\n");
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", |mut talk| drop(talk.rest()));
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it);
        talk.say("GET /x/../admin/a?secret HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        let response = talk.message();
        assert!(response.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nmatchlock: blocked: blocked by a rule (no admin)\n"), "{response}");
    });
    let told = it.request();
    assert!(told.starts_with("GET https://api.x.com:443/x/../admin/a 403 0>0 [no admin] "), "{told}");
    assert!(told.ends_with(" blocked: blocked by a rule (no admin)"), "{told}");
}

fn limited() {
    let it =
        ruled("[[rule]]\naction = 'mutate'\nhosts = ['api.x.com']\nmax_request_bytes = 10\nmax_response_bytes = 10\n");
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", |mut talk| {
        while talk.hears() {
            match talk.head() {
                head if head.starts_with("POST") => drop(talk.rest()),
                head if head.starts_with("GET /announced") => {
                    talk.say("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890");
                }
                _ => talk.say(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n678901\r\n0\r\n\r\n",
                ),
            }
        }
    });
    it.sandbox.guest.run(|| {
        for body in ["Content-Length: 11\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n012345\r\n"] {
            let mut talk = talk(&it);
            talk.say(&format!("POST / HTTP/1.1\r\nHost: api.x.com\r\n{body}"));
            let response = talk.message();
            assert!(response.starts_with("HTTP/1.1 4") && response.contains("than "), "{body}: {response}");
        }
        let mut announced = talk(&it);
        announced.say("GET /announced HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        let response = announced.message();
        assert!(
            response.starts_with("HTTP/1.1 502") && response.contains("11 bytes is more than the 10"),
            "{response}"
        );
        let mut longer = talk(&it);
        longer.say("GET / HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        longer.until("012345");
        assert!(!longer.rest().contains("678901"));
    });
}

/// Ways to ask for `/admin/a` that some server understands.
const SPELLINGS: [&[u8]; 8] = [
    b"GET /admin/a HTTP/1.1\r\nHost: api.x.com:8080\r\n\r\n",
    b"GET /admin/a\r\n",
    b"GET admin/a\r\n",
    b" GET /admin/a HTTP/1.1\r\nHost: api.x.com:8080\r\n\r\n",
    b"\r\n\tGET /admin/a HTTP/1.1\r\nHost: api.x.com:8080\r\n\r\n",
    b"GET\x0b/admin/a\x0bHTTP/1.1\r\nHost: api.x.com:8080\r\n\r\n",
    b"PUT\xa0/admin/a\xa0HTTP/1.1\r\nHost: api.x.com:8080\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: api.x.com:8080\r\n\r\n",
];

/// Say each of them to the port; nobody is to hear it but, with the last, a server that is asked for something else.
fn spelled(it: &Intercepted) {
    let (tell, heard) = telling();
    serve(at(SERVER4, 8080), move |mut talk| {
        let line = talk.until("\n");
        talk.head();
        tell.send(line).unwrap();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    it.sandbox.guest.run(|| {
        for spelling in SPELLINGS {
            let mut talk = connect(at(SERVER4, 8080));
            talk.write_all(spelling).unwrap();
            let last = spelling.starts_with(b"GET / ");
            assert_eq!(talk.message().ends_with("\r\n\r\nok"), last, "{}", spelling.escape_ascii());
        }
    });
    assert_eq!(heard.next(), "GET / HTTP/1.1\r\n");
    assert!(heard.is_empty());
}

const NO_ADMIN: &str = "[[rule]]\naction = 'block'\nhosts = ['api.x.com:8080']\npaths = ['/admin/**']\n";

fn other_ports() {
    spelled(&intercepted(Wanted { hosts: "api.x.com:8080", rules: NO_ADMIN, ..Wanted::default() }));
}

/// Such a rule does not keep other protocols from a port, but what can be taken for HTTP is seen there.
fn every_host() {
    let rules = &NO_ADMIN.replace("hosts = ['api.x.com:8080']\n", "");
    spelled(&intercepted(Wanted { hosts: "api.x.com:8080", rules, ..Wanted::default() }));
}

fn not_http() {
    let it = intercepted(Wanted { hosts: "api.x.com:8080", rules: NO_ADMIN, ..Wanted::default() });
    serve(at(SERVER4, 8080), |mut talk| {
        talk.say("220 who is there?\r\n");
        talk.rest();
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect(at(SERVER4, 8080));
        talk.say("\0hello\r\n");
        let said = talk.rest();
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
    });
}
