//! TLS that is left alone.

use matchlock_net::{
    gateway::End,
    secret::{Options, Secret, Value},
};

use super::{
    Intercepted, Story, Wanted, intercepted,
    talk::{client_config, connect_tls, connect_with, serve_tls},
};
use crate::world::{SERVER4, SERVER6, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_tls_that_is_passed_through_is_with_the_server_itself", passed_through),
    ("intercept_tls_that_names_nobody_is_not_passed_through", nameless),
    ("intercept_tls_is_not_passed_through_where_a_secret_is_bound", bound),
];

fn passing(secrets: Vec<Secret>) -> Intercepted {
    let hosts = "api.x.com web.x.com";
    let it = intercepted(Wanted { hosts, secrets, passthrough: &["api.x.com"], ..Wanted::default() });
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", |mut talk| {
        let said = talk.until("\n");
        talk.say(&said);
    });
    it
}

fn passed_through() {
    let it = passing(Vec::new());
    it.sandbox.guest.run(|| {
        // Whoever signs for the internet is trusted here, not the sandbox's authority; and it is no HTTP.
        let mut talk = connect_tls(at(SERVER4, 443), &it.internet, "api.x.com").unwrap();
        talk.say("hello\n");
        assert_eq!(talk.until("\n"), "hello\n");
    });
    assert_eq!(it.connection(), End::Done);
    it.sandbox.guest.run(|| {
        let refused = connect_tls(at(SERVER4, 443), &it.internet, "web.x.com").err().unwrap();
        assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
        let refused = connect_tls(at(SERVER4, 443), &it.internet, "evil.com").err().unwrap();
        assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    });
    let broken = it.connection().to_string();
    assert!(broken.starts_with("failed: the guest breaks off TLS with web.x.com: "), "{broken}");
    assert!(
        broken.ends_with("(a client that trusts only its own authorities needs --tls-passthrough web.x.com)"),
        "{broken}"
    );
}

fn nameless() {
    let it = intercepted(Wanted { hosts: "far.x.com", passthrough: &["far.x.com"], ..Wanted::default() });
    serve_tls(at(SERVER6, 443), &it.internet, "far.x.com", |_| panic!("nobody is to be dialled"));
    it.sandbox.guest.run(|| {
        let mut config = (*client_config(&it.internet, &[])).clone();
        config.enable_sni = false;
        let refused = connect_with(at(SERVER6, 443), config.into(), "far.x.com").err().unwrap();
        assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    });
    let why = "blocked: its TLS does not say that it is for far.x.com, whose TLS is left alone";
    assert_eq!(it.connection().to_string(), why);
}

fn bound() {
    let value = Value::new("the-value/1".into()).ok().unwrap();
    let hosts = vec!["*.x.com".parse().unwrap()];
    let it = passing(vec![Secret::new("KEY".into(), value, None, hosts, Options::default()).ok().unwrap()]);
    it.sandbox.guest.run(|| {
        let refused = connect_tls(at(SERVER4, 443), &it.internet, "api.x.com").err().unwrap();
        assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
        connect_tls(at(SERVER4, 443), &it.authority, "api.x.com").unwrap();
    });
}
