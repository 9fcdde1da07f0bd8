//! Whom a guest says it means: in its TLS, in its requests, and that it is the same one all the time.

use std::io::Read;

use matchlock_net::gateway::End;

use super::{
    Intercepted, Story, allowing,
    talk::{Talk, client_config, connect, connect_tls, connect_with, serve, serve_tls},
};
use crate::world::{SERVER4, SERVER6, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_tls_for_a_name_that_is_not_allowed_there_is_refused", server_names),
    ("intercept_tls_without_a_name_is_for_the_only_one_there_is", nameless),
    ("intercept_a_request_is_for_whom_its_tls_is_with", fronting),
    ("intercept_http_without_tls_is_judged_by_its_host", clear),
    ("intercept_a_rule_that_is_taken_away_counts_for_the_next_request", taken_away),
];

/// In the guest: what a request for `host` is answered on a connection with `api.x.com`.
fn asked(it: &Intercepted, request: &str) -> String {
    let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
    talk.say(request);
    talk.message()
}

fn answering(mut talk: Talk) {
    while talk.hears() {
        talk.head();
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
}

fn server_names() {
    let it = allowing("api.x.com far.x.com");
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", |_| panic!("nobody is to be dialled"));
    for (name, why) in [
        ("evil.com", "denied: evil.com:443: host not in allowlist (--allow-host evil.com would allow it)"),
        ("web.x.com", "denied: web.x.com:443: host not in allowlist (--allow-host web.x.com would allow it)"),
        ("far.x.com", "denied: far.x.com: asked for at 93.184.216.34, which it was not resolved to"),
    ] {
        let refused = it.sandbox.guest.run(|| connect_tls(at(SERVER4, 443), &it.authority, name).err().unwrap());
        assert!(refused.to_string().contains("UnrecognisedName"), "{name}: {refused}");
        assert_eq!(it.connection().to_string(), why);
    }
}

fn nameless() {
    let connect = |it: &Intercepted, address: &str, name: &str| {
        let mut config = (*client_config(&it.authority, &[])).clone();
        config.enable_sni = false;
        connect_with(at(address, 443), config.into(), name)
    };
    let it = allowing("api.x.com web.x.com far.x.com");
    serve_tls(at(SERVER6, 443), &it.internet, "far.x.com", answering);
    it.sandbox.guest.run(|| {
        let mut talk = connect(&it, SERVER6, "far.x.com").unwrap();
        talk.say("GET / HTTP/1.1\r\nHost: far.x.com\r\n\r\n");
        assert!(talk.message().ends_with("ok"));
        let refused = connect(&it, SERVER4, "api.x.com").err().unwrap();
        assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    });
    let ends = [it.connection(), it.connection()].map(|end| end.to_string());
    let refused = "blocked: its TLS does not say which of api.x.com, web.x.com it is for";
    assert!(ends.contains(&refused.to_owned()), "{ends:?}");
}

fn fronting() {
    let it = allowing("api.x.com web.x.com");
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", answering);
    it.sandbox.guest.run(|| {
        let refused = "matchlock: web.x.com: asked for on a connection whose TLS is with api.x.com\n";
        for request in [
            "GET / HTTP/1.1\r\nHost: web.x.com\r\n\r\n",
            "GET https://web.x.com/ HTTP/1.1\r\nHost: web.x.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: WEB.x.com.:443\r\n\r\n",
        ] {
            let response = asked(&it, request);
            assert!(response.starts_with("HTTP/1.1 403 Forbidden\r\n") && response.ends_with(refused), "{response}");
        }
        for request in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.x.com\0.evil.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.x.com\r\nHost: web.x.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.x.com:80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.x.com@evil.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.x.com, evil.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : api.x.com\r\n\r\n",
            "GET https://evil.com/ HTTP/1.1\r\nHost: api.x.com\r\n\r\n",
            "GET https://api.x.com/ HTTP/1.1\r\nHost: evil.com\r\n\r\n",
            "CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com:443\r\n\r\n",
            "CONNECT api.x.com:443 HTTP/1.1\r\nHost: api.x.com:443\r\n\r\n",
        ] {
            let response = asked(&it, request);
            assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {response}");
        }
        assert!(asked(&it, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 400 Bad Request\r\n"));
        for request in [
            "GET / HTTP/1.1\r\nHost: Api.X.com.:443\r\n\r\n",
            "GET https://api.x.com/ HTTP/1.1\r\nHost: api.x.com\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: api.x.com\r\n\r\n",
        ] {
            assert!(asked(&it, request).ends_with("ok"), "{request:?}");
        }
    });
}

fn clear() {
    let it = allowing("api.x.com far.x.com");
    serve(at(SERVER4, 80), answering);
    let get = |host: &str| {
        let mut talk = connect(at(SERVER4, 80));
        talk.say(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        talk.message()
    };
    it.sandbox.guest.run(|| {
        assert!(get("api.x.com").ends_with("ok"));
        for (host, why) in [
            ("evil.com", "evil.com:80: host not in allowlist (--allow-host evil.com would allow it)"),
            ("far.x.com", "far.x.com: asked for at 93.184.216.34, which it was not resolved to"),
            (SERVER4, "93.184.216.34:80: host not in allowlist (--allow-host 93.184.216.34:80 would allow it)"),
            ("[::1]", "::1: asked for at 93.184.216.34, which it was not resolved to"),
        ] {
            let response = get(host);
            assert!(response.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{response}");
            assert!(response.ends_with(&format!("\r\n\r\nmatchlock: {why}\n")), "{response}");
        }
    });
}

fn taken_away() {
    let it = allowing("api.x.com");
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", answering);
    it.sandbox.guest.run(|| {
        let mut talk = connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
        talk.say("GET /1 HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        assert!(talk.message().ends_with("ok"));
        it.guard.delete(["api.x.com".parse().unwrap()]).unwrap();
        talk.say("GET /2 HTTP/1.1\r\nHost: api.x.com\r\n\r\n");
        let response = talk.message();
        assert!(
            response
                .ends_with("matchlock: api.x.com:443: host not in allowlist (--allow-host api.x.com would allow it)\n"),
            "{response}"
        );
        it.guard.add(["api.x.com".parse().unwrap()]).unwrap();
        talk.say("GET /3 HTTP/1.1\r\nHost: api.x.com\r\nConnection: close\r\n\r\n");
        assert!(talk.message().ends_with("ok"));
        assert_eq!(talk.read(&mut [0]).unwrap(), 0);
    });
    assert_eq!(it.connection(), End::Done);
}
