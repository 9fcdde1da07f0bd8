//! Connections that go on with something else than HTTP.

use std::io::Read;

use matchlock_net::secret::{Options, Secret, Value};

use super::{
    Story, Wanted, allowing, intercepted,
    talk::{connect_tls, serve_tls, telling},
};
use crate::world::{SERVER4, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_a_websocket_is_carried_until_both_have_closed", echo),
    ("intercept_values_in_a_websocket_become_asterisks", masked),
    ("intercept_nothing_else_becomes_of_a_connection", others),
];

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: api.x.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn echo() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        tell.send(talk.head()).unwrap();
        // The first message comes with the head.
        talk.say(&format!("{SWITCHED}\u{1}\u{2}hi"));
        for _ in 0..2 {
            let mut message = [0; 5];
            talk.read_exact(&mut message).unwrap();
            talk.say(&String::from_utf8(message.into()).unwrap());
        }
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say(UPGRADE);
        let switched = talk.head();
        assert!(switched.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{switched}");
        assert!(switched.to_lowercase().contains("upgrade: websocket\r\n"), "{switched}");
        talk.until("\u{1}\u{2}hi");
        for message in ["first", "other"] {
            talk.say(message);
            talk.until(message);
        }
        assert_eq!(talk.rest(), "");
    });
    let request = heard.next();
    assert!(request.contains("Sec-WebSocket-Extensions: permessage-deflate\r\n"), "{request}");
    assert_eq!(it.request(), "GET https://api.x.com:443/chat 101 10>14 [] by --allow-host api.x.com done");
}

fn masked() {
    let value = Value::new("the-value/1".into()).ok().unwrap();
    let hosts = vec!["api.x.com".parse().unwrap()];
    let placeholder = Some("SANDBOX_SECRET_1".to_owned());
    let secret = Secret::new("KEY".into(), value, placeholder, hosts, Options::default()).ok().unwrap();
    let it = intercepted(Wanted { hosts: "api.x.com", secrets: vec![secret], ..Wanted::default() });
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        let request = talk.head();
        let key = request.lines().find_map(|line| line.strip_prefix("X-Key: ")).unwrap().to_owned();
        tell.send(request).unwrap();
        let switched = SWITCHED.replace("Switching Protocols", &key);
        talk.say(&format!("{switched}\u{1}{}{key}\u{1}\u{3}the", '\u{b}'));
        let mut message = [0; 16];
        talk.read_exact(&mut message).unwrap();
        tell.send(String::from_utf8(message.into()).unwrap()).unwrap();
    });
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say(&UPGRADE.replace("Connection", "X-Key: SANDBOX_SECRET_1\r\nConnection"));
        assert!(talk.head().starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        // And what could be the beginning of one does not wait for the next.
        assert_eq!(talk.until("the"), "\u{1}\u{b}***********\u{1}\u{3}the");
        talk.say("SANDBOX_SECRET_1");
        assert!(!heard.next().contains("Extensions"));
        assert_eq!(heard.next(), "SANDBOX_SECRET_1");
    });
}

fn others() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk| {
        let request = talk.head();
        let switch = request.starts_with("GET /switch");
        tell.send(request).unwrap();
        if switch {
            return talk.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
        }
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    it.sandbox.guest.run(|| {
        for protocols in ["h2c", "websocket, h2c", "TLS/1.0"] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&format!(
                "GET / HTTP/1.1\r\nHost: api.x.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocols}\r\n\
                 HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
            ));
            assert!(talk.message().ends_with("ok"));
            assert_eq!(heard.next(), "GET / HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        }
        for (request, why) in [
            (UPGRADE.replace("/chat", "/switch"), "the server switches to something else than a WebSocket"),
            ("GET /switch HTTP/1.1\r\nHost: api.x.com\r\n\r\n".to_owned(), ""),
        ] {
            let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
            talk.say(&request);
            let response = talk.message();
            assert!(response.starts_with("HTTP/1.1 502 Bad Gateway\r\n") && response.contains(why), "{response}");
        }
    });
}
