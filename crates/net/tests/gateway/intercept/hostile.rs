//! Requests that two readers would understand differently, and those that are too much.

use super::{
    Intercepted, Story, Wanted, allowing, intercepted,
    talk::{Told, connect_tls, serve_tls, telling},
};
use crate::world::{SERVER4, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_a_request_that_can_be_understood_in_two_ways_is_refused", refused),
    ("intercept_a_request_is_written_anew_before_it_is_sent_on", rewritten),
    ("intercept_heads_have_bounds", bounds),
    ("intercept_what_a_guest_writes_is_told_of_in_bounds", told_of),
    ("intercept_a_refused_upload_is_told_why", upload),
];

fn server(it: &Intercepted) -> Told<String> {
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        while talk.hears() {
            tell.send(talk.message()).unwrap();
            talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    heard
}

fn refused() {
    let it = allowing("api.x.com");
    let heard = server(&it);
    it.sandbox.guest.run(|| {
        for headers in [
            "Content-Length: 4\r\nContent-Length: 5\r\n",
            "Content-Length: +4\r\n",
            "Content-Length: 4, 5\r\n",
            "Content-Length: 0x4\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "X-Folded: a\r\n Transfer-Encoding: chunked\r\n",
            "X-Nul: a\0b\r\n",
            "X-Return: a\rb\r\n",
            "\0: a\r\n",
            ": a\r\n",
            "no header\r\n",
        ] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: api.x.com\r\n\r\n";
            talk.say(&format!("POST / HTTP/1.1\r\nHost: api.x.com\r\n{headers}\r\n0\r\n\r\n{smuggled}"));
            let response = talk.message();
            assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{headers:?}: {response}");
            assert_eq!(talk.rest(), "", "{headers:?}");
        }
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.2",
            "GET / HTTP/3.0",
            "GET /\t HTTP/1.1",
            "GET /\u{7f} HTTP/1.1",
            "G\0T / HTTP/1.1",
        ] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&format!("{line}\r\nHost: api.x.com\r\n\r\n"));
            let said = talk.rest();
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{line:?}: {said}");
        }
    });
    assert!(heard.is_empty(), "nobody heard of any");
}

fn rewritten() {
    let it = allowing("api.x.com");
    let heard = server(&it);
    it.sandbox.guest.run(|| {
        // The length is not what counts here, and so it goes no further.
        for framing in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        ] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&format!("POST / HTTP/1.1\r\nHost: api.x.com\r\n{framing}\r\n1;a=b\r\nx\r\n0\r\n\r\n"));
            assert!(talk.message().ends_with("ok"));
            let request = heard.next();
            assert!(request.ends_with("Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), "{request}");
            assert!(!request.contains("Content-Length"), "{request}");
        }
        for chunks in
            ["1;a=\"\n\"\r\nx\r\n0\r\n\r\n", "1 \r\nxy\r\n0\r\n\r\n", "-1\r\n", "g\r\n", "ffffffffffffffff1\r\n"]
        {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&format!("POST / HTTP/1.1\r\nHost: api.x.com\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
            let response = talk.message();
            assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{chunks:?}: {response}");
        }
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say("GET / HTTP/1.1\nHost: api.x.com\nX-Bare:  newlines \nConnection: close, X-Gone\nX-Gone: 1\n\n");
        assert!(talk.message().ends_with("ok"));
        assert_eq!(heard.next(), "GET / HTTP/1.1\r\nHost: api.x.com\r\nX-Bare: newlines\r\n\r\n");
        assert_eq!(talk.rest(), "");
    });
}

fn bounds() {
    let it = allowing("api.x.com");
    let heard = server(&it);
    it.sandbox.guest.run(|| {
        let large = format!("X-Large: {}\r\n", "a".repeat(70 * 1024));
        let many = "X-Many: a\r\n".repeat(101);
        for headers in [large, many] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&format!("GET / HTTP/1.1\r\nHost: api.x.com\r\n{headers}\r\n"));
            let response = talk.message();
            assert!(response.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{response}");
        }
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say(&format!("GET / HTTP/1.1\r\nHost: api.x.com\r\nX-Large: {}\r\n\r\n", "a".repeat(48 * 1024)));
        assert!(talk.message().ends_with("ok"));
        heard.next();
    });
    assert!(heard.is_empty());
}

fn told_of() {
    let allow = "[[rule]]\naction = 'allow'\nhosts = ['api.x.com']\nmethods = ['GET']\n";
    let it = intercepted(Wanted { hosts: "api.x.com", rules: allow, ..Wanted::default() });
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", |_| panic!("nobody is to hear of any"));
    let long = "x".repeat(9000);
    it.sandbox.guest.run(|| {
        for request in [
            format!("{long} /\u{202e}{long}?secret HTTP/1.1\r\nHost: api.x.com\r\nX-HTTP-Method: {long}\r\n\r\n"),
            "GET /?_method=secret HTTP/1.1\r\nHost: api.x.com\r\n\r\n".to_owned(),
            format!("GET /?secret HTTP/1.1\r\nHost: {long}\r\n\r\n"),
        ] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&request);
            assert!(talk.message().starts_with("HTTP/1.1 40"));
            let told = it.request();
            assert!(told.len() < 4000 && !told.contains("secret"), "{told}");
            assert!(told.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{told}");
        }
    });
}

fn upload() {
    let it = allowing("api.x.com web.x.com");
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        let body = "x".repeat(2 * 1024 * 1024);
        talk.say(&format!("POST / HTTP/1.1\r\nHost: web.x.com\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let response = talk.message();
        assert!(response.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{response}");
        assert!(response.ends_with("asked for on a connection whose TLS is with api.x.com\n"), "{response}");
    });
}
