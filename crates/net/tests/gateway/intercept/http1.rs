//! HTTP/1.1: what a guest says is what its server hears, and the other way round.

use std::{
    io::Read,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use matchlock_net::gateway::What;

use super::{
    Story, allowing,
    talk::{connect, connect_tls, serve, serve_tls, telling},
};
use crate::world::{SERVER4, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_requests_of_one_connection_go_over_one_connection_as_they_are", keep_alive),
    ("intercept_http_without_tls_is_carried_the_same_way", clear),
    ("intercept_chunks_and_trailers_go_both_ways", trailers),
    ("intercept_a_body_is_carried_whatever_the_method", any_method),
    ("intercept_an_event_of_a_stream_comes_before_the_next_is_sent", stream),
    ("intercept_a_body_waits_until_its_server_wants_it", expect),
    ("intercept_a_connection_that_its_server_has_closed_is_made_anew", stale),
    ("intercept_requests_that_are_under_way_are_told_of_when_the_gateway_ends", gateway_ends),
    ("intercept_a_server_that_cannot_be_had_is_told_of", unreachable),
];

fn keep_alive() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    let connections = AtomicUsize::new(0);
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        let connection = connections.fetch_add(1, Relaxed);
        for _ in 0..2 {
            tell.send((connection, talk.head())).unwrap();
            talk.say("HTTP/1.1 200 Very Well\r\nX-Answer: 1\r\nserver: me\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        for _ in 0..2 {
            talk.say("GET /a/../b?c=%20d HTTP/1.1\r\nHost: API.x.com\r\nX-Own: a\r\naccept: */*\r\nConnection: keep-alive\r\nCookie: x\r\n\r\n");
            let answer = "HTTP/1.1 200 Very Well\r\nX-Answer: 1\r\nserver: me\r\nContent-Length: 2\r\n\r\nok";
            assert_eq!(talk.message(), answer);
        }
    });
    let request = "GET /a/../b?c=%20d HTTP/1.1\r\nHost: API.x.com\r\nX-Own: a\r\naccept: */*\r\nCookie: x\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(heard.next(), (0, request.to_owned()));
        let told = "GET https://api.x.com:443/a/../b 200 0>2 [] by --allow-host api.x.com done";
        assert_eq!(it.request(), told);
    }
}

fn clear() {
    let it = allowing("api.x.com web.x.com");
    serve(at(SERVER4, 80), |mut talk| {
        loop {
            let head = talk.head();
            let host = head.lines().find(|line| line.starts_with("Host")).unwrap();
            talk.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{host}", host.len()));
        }
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect(at(SERVER4, 80));
        // Two names of one address, on one connection.
        for name in ["api.x.com", "web.x.com:80"] {
            talk.say(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
            assert!(talk.message().ends_with(&format!("Host: {name}")));
        }
    });
}

fn trailers() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        tell.send(talk.head() + &talk.until("\r\n\r\n")).unwrap();
        talk.say(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        );
    });
    let request =
        "POST / HTTP/1.1\r\nHost: api.x.com\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say(&format!("{request}5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"));
        let answer = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(talk.head(), answer);
        assert_eq!(talk.until("\r\n\r\n").to_lowercase(), "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n");
    });
    let request: String = heard.next();
    assert!(request.to_lowercase().ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"), "{request}");
    assert_eq!(it.request(), "POST https://api.x.com:443/ 200 5>3 [] by --allow-host api.x.com done");
}

fn any_method() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        while talk.hears() {
            tell.send(talk.message()).unwrap();
            talk.say("HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        for method in ["GET", "HEAD", "DELETE", "OPTIONS", "QUERY"] {
            for framed in
                ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "Content-Length: 5\r\n\r\nhello"]
            {
                let request = format!("{method} / HTTP/1.1\r\nHost: api.x.com\r\n{framed}");
                talk.say(&request);
                talk.head();
                assert_eq!(heard.next(), request);
            }
        }
    });
}

fn stream() {
    let it = allowing("api.x.com");
    let (go_on, goes_on) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        talk.head();
        talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for event in 0..3 {
            talk.say(&format!("data: {event}\n\n"));
            goes_on.next();
        }
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say("GET / HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        talk.head();
        for event in 0..3 {
            talk.until(&format!("data: {event}\n\n"));
            go_on.send(()).unwrap();
        }
    });
}

fn expect() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        let request = talk.head();
        if request.starts_with("PUT /no") {
            talk.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
            tell.send(talk.rest()).unwrap();
            return;
        }
        talk.say("HTTP/1.1 100 Continue\r\n\r\n");
        let mut body = [0; 4];
        talk.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"body");
        talk.say("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    });
    let put = |path: &str| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        let request =
            format!("PUT {path} HTTP/1.1\r\nHost: api.x.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
        talk.say(&request);
        talk
    };
    it.sandbox.guest.run(|| {
        let mut talk = put("/yes");
        assert_eq!(talk.head(), "HTTP/1.1 100 Continue\r\n\r\n");
        talk.say("body");
        assert!(talk.message().starts_with("HTTP/1.1 201 Created"));
        // Nobody asked for the body, so nobody gets it.
        let mut talk = put("/no");
        assert!(talk.message().starts_with("HTTP/1.1 417 Expectation Failed"));
    });
    assert_eq!(heard.next(), "");
}

fn stale() {
    let it = allowing("api.x.com");
    let (tell, closed) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        talk.head();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        drop(talk);
        tell.send(()).unwrap();
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        for _ in 0..3 {
            talk.say("GET / HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
            assert!(talk.message().ends_with("ok"));
            closed.next();
        }
    });
}

fn gateway_ends() {
    let mut it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        tell.send(talk.head()).unwrap();
        talk.rest();
    });
    let talk = it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say("GET /a HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        talk
    });
    heard.next();
    it.sandbox.stop();
    let told = [it.sandbox.next(), it.sandbox.next()];
    let connection = told.iter().find_map(|event| match event.what {
        What::Connection(moved) => Some((moved.from_guest > 0, event.end.to_string())),
        _ => None,
    });
    assert_eq!(connection, Some((true, "failed: the sandbox ended first".to_owned())));
    let request = told.iter().find(|event| matches!(event.what, What::Request(_))).unwrap();
    assert_eq!(request.end.to_string(), "failed: the guest did not wait for a response");
    drop(talk);
}

fn unreachable() {
    let it = allowing("api.x.com:* far.x.com");
    serve_tls(at(SERVER4, 443), &it.internet, "web.x.com", |mut talk| drop(talk.rest()));
    serve_tls(at(SERVER4, 8443), &it.authority, "api.x.com", |mut talk| drop(talk.rest()));
    serve_tls(at(SERVER4, 9443), &it.internet, "api.x.com", |mut talk| drop(talk.head()));
    let get = |port: u16| {
        let mut talk = connect_tls(at(SERVER4, port), &it.authority, "api.x.com").unwrap();
        talk.say(&format!("GET / HTTP/1.1\r\nHost: api.x.com:{port}\r\n\r\n"));
        let response = talk.message();
        assert!(response.starts_with("HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain"), "{response}");
        response.lines().last().unwrap().to_owned()
    };
    it.sandbox.guest.run(|| {
        let other = get(443);
        assert!(
            other.starts_with("matchlock: no TLS with api.x.com at 93.184.216.34:443: invalid peer certificate"),
            "{other}"
        );
        let untrusted = get(8443);
        assert!(untrusted.ends_with("invalid peer certificate: UnknownIssuer"), "{untrusted}");
        let silent = get(9443);
        assert!(silent.starts_with("matchlock: no answer from 93.184.216.34:9443: "), "{silent}");
    });
    let told = it.request();
    assert!(told.contains("502 0>0 [] by --allow-host api.x.com:* failed: no TLS with api.x.com"), "{told}");
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(crate::world::SERVER6, 443), &it.authority, "far.x.com").unwrap();
        talk.say("GET / HTTP/1.1\r\nHost: far.x.com\r\n\r\n");
        let response = talk.message();
        assert!(
            response.contains("\r\n\r\nmatchlock: cannot connect to [2606:2800:220:1::1]:443: Connection refused"),
            "{response}"
        );
    });
}
