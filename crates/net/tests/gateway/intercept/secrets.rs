//! What becomes of placeholders and values on a connection.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use matchlock_net::secret::{Options, Secret, Value};

use super::{
    Intercepted, Story, Wanted, intercepted,
    talk::{Talk, Told, connect, connect_tls, serve, serve_tls, telling},
};
use crate::world::{SERVER4, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_secrets_are_put_in_on_the_way_to_their_host", put_in),
    ("intercept_placeholders_go_nowhere_else", misdirected),
    ("intercept_values_do_not_come_back", taken_out),
    ("intercept_names_of_headers_with_values_do_not_come_back", named),
    ("intercept_messages_stay_as_long_as_they_are", messages),
    ("intercept_what_is_kept_back_comes_after_a_pause", pause),
    ("intercept_a_response_that_cannot_be_looked_through_is_kept_back", compressed),
    ("intercept_a_guest_cannot_cut_responses_so_that_values_are_not_found", ranges),
    ("intercept_a_body_is_replaced_where_that_was_asked_for", bodies),
    ("intercept_a_body_for_which_there_is_no_room_goes_in_chunks", no_room),
    ("intercept_a_rotated_value_counts_for_the_next_request", rotated),
];

const PLACEHOLDER: &str = "SANDBOX_SECRET_1";
const BODY: &str = "SANDBOX_SECRET_2";

/// A secret for `api.x.com`, and one of `web.x.com` that is replaced in bodies, and without TLS.
fn with_secrets() -> Intercepted {
    let everywhere = Options { body: true, without_tls: true };
    let secrets = [
        ("KEY", "the-value/1", PLACEHOLDER, "api.x.com", Options::default()),
        ("BODY", "other-value", BODY, "web.x.com", everywhere),
    ];
    let secrets = secrets.map(|(name, value, placeholder, host, options)| {
        let value = Value::new(value.into()).ok().unwrap();
        let hosts = vec![host.parse().unwrap()];
        Secret::new(name.into(), value, Some(placeholder.into()), hosts, options).ok().unwrap()
    });
    intercepted(Wanted { hosts: "api.x.com web.x.com", secrets: secrets.into(), ..Wanted::default() })
}

/// A server for `name` that tells of each request, and answers with what it was told; the last line comes in a header, too.
fn echo(it: &Intercepted, name: &str) -> Told<String> {
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, name, move |mut talk| {
        while talk.hears() {
            let request = talk.message();
            let line = request.lines().last().unwrap().to_owned();
            tell.send(request.clone()).unwrap();
            talk.say(&format!(
                "HTTP/1.1 200 {line}\r\nX-Echo: {line}\r\nContent-Length: {}\r\n\r\n{request}",
                request.len()
            ));
        }
    });
    heard
}

fn talk(it: &Intercepted, name: &str) -> Talk {
    connect_tls(at(SERVER4, 443), &it.authority, name).unwrap()
}

fn put_in() {
    let it = with_secrets();
    let heard = echo(&it, "api.x.com");
    let basic = STANDARD.encode(format!("me:{PLACEHOLDER}"));
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it, "api.x.com");
        talk.say(&format!(
            "GET /a?key={PLACEHOLDER} HTTP/1.1\r\nHost: api.x.com\r\nX-Key: {PLACEHOLDER}\r\n\
             Authorization: Basic {basic}\r\nAccept-Encoding: gzip, br\r\n\r\n"
        ));
        let request = heard.next();
        let basic = STANDARD.encode("me:the-value/1");
        let expected = format!(
            "GET /a?key=the-value%2F1 HTTP/1.1\r\nHost: api.x.com\r\nX-Key: the-value/1\r\n\
             Authorization: Basic {basic}\r\nAccept-Encoding: identity\r\n\r\n"
        );
        assert_eq!(request, expected);
        talk.message();
    });
    let told = it.request();
    assert!(told.starts_with("GET https://api.x.com:443/a 200 ") && told.contains(" [KEY] "), "{told}");
    assert!(!told.contains("value"), "{told}");
}

fn misdirected() {
    let it = with_secrets();
    let heard = echo(&it, "web.x.com");
    serve(at(SERVER4, 80), |_| panic!("nobody is to be dialled"));
    let refused = |mut talk: Talk, request: String, why: &str| {
        talk.say(&request);
        let response = talk.message();
        assert!(response.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{response}");
        assert!(response.ends_with(&format!("\r\n\r\nmatchlock: blocked: {why}\n")), "{request}: {response}");
        assert!(it.request().ends_with(&format!("blocked: {why}")));
    };
    let elsewhere = "secret placeholder sent to unauthorized host (KEY)";
    let basic = STANDARD.encode(format!("{PLACEHOLDER}:"));
    it.sandbox.guest.run(|| {
        for request in [
            format!("GET / HTTP/1.1\r\nHost: web.x.com\r\nX-Key: {PLACEHOLDER}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: web.x.com\r\nAuthorization: bAsIc {basic}\r\n\r\n"),
            format!("GET /?a={PLACEHOLDER} HTTP/1.1\r\nHost: web.x.com\r\n\r\n"),
            format!("GET /{PLACEHOLDER}/ HTTP/1.1\r\nHost: web.x.com\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: web.x.com\r\n{PLACEHOLDER}: y\r\n\r\n"),
        ] {
            refused(talk(&it, "web.x.com"), request, elsewhere);
        }
        for (place, request) in [
            ("a path", format!("GET /{BODY} HTTP/1.1\r\nHost: web.x.com\r\n\r\n")),
            ("a method", format!("{BODY} / HTTP/1.1\r\nHost: web.x.com\r\n\r\n")),
            ("the name of a header", format!("GET / HTTP/1.1\r\nHost: web.x.com\r\nX-{BODY}: y\r\n\r\n")),
        ] {
            let why = format!("secret placeholder sent in {place}, where it is not replaced (BODY)");
            refused(talk(&it, "web.x.com"), request, &why);
        }
        let trace = "TRACE would have the server send back what is secret";
        refused(talk(&it, "web.x.com"), "TRACE / HTTP/1.1\r\nHost: web.x.com\r\n\r\n".to_owned(), trace);
        let clear = "secret placeholder sent without TLS (KEY)";
        let request = format!("GET / HTTP/1.1\r\nHost: api.x.com\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
        refused(connect(at(SERVER4, 80)), request, clear);
    });
    assert!(heard.is_empty(), "nobody heard of any");
}

fn taken_out() {
    let it = with_secrets();
    let heard = echo(&it, "api.x.com");
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it, "api.x.com");
        talk.say(&format!("POST /?{PLACEHOLDER} HTTP/1.1\r\nHost: api.x.com\r\nX-Key: {PLACEHOLDER}\r\nContent-Length: 11\r\n\r\nthe-value/1"));
        assert!(heard.next().contains("X-Key: the-value/1\r\n"));
        let response = talk.head();
        assert!(response.contains(&format!("X-Echo: {PLACEHOLDER}\r\n")), "{response}");
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        let body = talk.until("\r\n0\r\n\r\n");
        assert!(body.contains(&format!("X-Key: {PLACEHOLDER}\r\n")) && !body.contains("the-value"), "{body}");
    });
}

/// A server for `web.x.com` that answers like this.
fn answering(it: &Intercepted, answer: &'static str) -> Talk {
    serve_tls(at(SERVER4, 443), &it.internet, "web.x.com", move |mut talk| {
        talk.head();
        talk.say(answer);
    });
    let mut talk = it.sandbox.guest.run(|| talk(it, "web.x.com"));
    talk.say("GET / HTTP/1.1\r\nHost: web.x.com\r\n\r\n");
    talk
}

fn named() {
    let it = with_secrets();
    let mut talk = answering(
        &it,
        "HTTP/1.1 200 OK\r\nX-Other-Value: 1\r\nX-Else: 2\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\nx\r\n0\r\nOther-Value: 3\r\n\r\n",
    );
    let head = talk.head();
    assert!(head.contains("X-Else: 2\r\n") && !head.to_lowercase().contains("other-value"), "{head}");
    assert_eq!(talk.until("0\r\n\r\n"), "1\r\nx\r\n0\r\n\r\n");
}

fn messages() {
    let it = with_secrets();
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\nContent-Length: 20\r\n\r\n\0\0\0\0\u{f}a other-value b";
    let response = answering(&it, answer).message();
    assert!(response.ends_with("7\r\n\0\0\0\0\u{f}a \r\nD\r\n*********** b\r\n0\r\n\r\n"), "{response}");
}

fn pause() {
    let it = with_secrets();
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        talk.head();
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nthe-\r\n");
        // The guest goes on when it has got that, and nothing was behind it.
        heard.next();
        talk.say("9\r\nvalue?\nno\r\n0\r\n\r\n");
    });
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it, "api.x.com");
        talk.say("GET / HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        talk.head();
        assert_eq!(talk.until("-\r\n"), "4\r\nthe-\r\n");
        tell.send(()).unwrap();
        assert_eq!(talk.until("\r\n0\r\n\r\n"), "7\r\nvalue?\n\r\n2\r\nno\r\n0\r\n\r\n");
    });
}

fn compressed() {
    let it = with_secrets();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", |mut talk| {
        let request = talk.head();
        let first = if request.starts_with("GET /two") { "Content-Encoding: identity\r\n" } else { "" };
        talk.say(&format!("HTTP/1.1 200 OK\r\n{first}Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx"));
    });
    it.sandbox.guest.run(|| {
        for (path, codings) in [("/one", "br"), ("/two", "identity, br")] {
            let mut talk = talk(&it, "api.x.com");
            talk.say(&format!("GET {path} HTTP/1.1\r\nHost: api.x.com\r\n\r\n"));
            let response = talk.message();
            let why = format!("the response is compressed ({codings}), so it cannot be looked through for secrets\n");
            assert!(response.starts_with("HTTP/1.1 502") && response.ends_with(&why), "{response}");
        }
    });
}

fn ranges() {
    let it = with_secrets();
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        while talk.hears() {
            tell.send(talk.head()).unwrap();
            talk.say("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-7/11\r\nContent-Length: 4\r\n\r\nvalu");
        }
    });
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it, "api.x.com");
        talk.say(&format!(
            "GET / HTTP/1.1\r\nHost: api.x.com\r\nX-Key: {PLACEHOLDER}\r\nRange: bytes=4-7\r\nIf-Range: \"1\"\r\n\r\n"
        ));
        let request = heard.next().to_lowercase();
        assert!(!request.contains("range"), "{request}");
        let response = talk.message();
        let why = "the response is only a part, which cannot be looked through for secrets\n";
        assert!(response.starts_with("HTTP/1.1 502") && response.ends_with(why), "{response}");
    });
}

fn bodies() {
    let it = with_secrets();
    let heard = echo(&it, "web.x.com");
    it.sandbox.guest.run(|| {
        let body = format!("{{\"token\": \"{BODY}\"}}");
        let mut first = talk(&it, "web.x.com");
        first.say(&format!("POST / HTTP/1.1\r\nHost: web.x.com\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert!(heard.next().ends_with("Content-Length: 24\r\n\r\n{\"token\": \"other-value\"}"));
        let mut chunked = talk(&it, "web.x.com");
        chunked.say("POST / HTTP/1.1\r\nHost: web.x.com\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nSANDBOX_\r\n");
        chunked.say("8\r\nSECRET_2\r\n0\r\n\r\n");
        let request = heard.next();
        assert!(request.ends_with("\r\n\r\nB\r\nother-value\r\n0\r\n\r\n"), "{request}");
        // The beginning of one at the end is none.
        let mut none = talk(&it, "web.x.com");
        none.say("POST / HTTP/1.1\r\nHost: web.x.com\r\nContent-Length: 8\r\n\r\nSANDBOX_");
        assert!(heard.next().ends_with("\r\n\r\nSANDBOX_"));
    });
}

fn no_room() {
    let it = with_secrets();
    let heard = echo(&it, "web.x.com");
    let post = |length: usize, more: &str| {
        let mut talk = talk(&it, "web.x.com");
        talk.say(&format!("POST / HTTP/1.1\r\nHost: web.x.com\r\n{more}Content-Length: {length}\r\n\r\n"));
        talk
    };
    it.sandbox.guest.run(|| {
        // All that a sandbox may keep of bodies, announced, and then not sent.
        let announce = |_| {
            let mut talk = post(1024 * 1024, "Expect: 100-continue\r\n");
            assert_eq!(talk.head(), "HTTP/1.1 100 Continue\r\n\r\n");
            talk
        };
        let waiting: Vec<_> = (0..64).map(announce).collect();
        let ask = || {
            let mut talk = post(BODY.len(), "");
            talk.say(BODY);
            talk.message();
            heard.next()
        };
        let request = ask();
        assert!(request.ends_with("\r\n\r\nB\r\nother-value\r\n0\r\n\r\n"), "{request}");
        drop(waiting);
        // They are told of when what they kept is gone.
        while !it.request().contains(" 400 ") {}
        let request = ask();
        assert!(request.ends_with("\r\n\r\nother-value"), "{request}");
    });
}

fn rotated() {
    let it = with_secrets();
    let heard = echo(&it, "api.x.com");
    it.sandbox.guest.run(|| {
        let mut talk = talk(&it, "api.x.com");
        for value in ["the-value/1", "another-one"] {
            talk.say(&format!("GET / HTTP/1.1\r\nHost: api.x.com\r\nX-Key: {PLACEHOLDER}\r\n\r\n"));
            assert!(heard.next().contains(&format!("X-Key: {value}\r\n")));
            talk.until("\r\n0\r\n\r\n");
            assert!(it.secrets.rotate("KEY", Value::new("another-one".into()).ok().unwrap()));
        }
    });
}
