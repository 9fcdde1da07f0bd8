//! What becomes of placeholders on the way out and of values on the way back.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use matchlock_net::{
    policy::Host,
    secret::{Exchange, MAX_FORMER, Options, Replacer, Secret, SecretError, Secrets, Value},
};
use proptest::prelude::*;

const KEY: &str = "sk-PLACEHOLDER-1";
const TOKEN: &str = "tok_PLACEHOLDER_2";

fn secret(name: &str, value: &str, placeholder: Option<&str>, host: &str, options: Options) -> Secret {
    let value = Value::new(value.into()).ok().unwrap();
    let hosts = host.split_whitespace().map(|host| host.parse().unwrap()).collect();
    Secret::new(name.into(), value, placeholder.map(Into::into), hosts, options).ok().unwrap()
}

fn secrets() -> Secrets {
    let everywhere = Options { body: true, without_tls: true };
    let secrets = vec![
        secret("KEY", "s3cr3t/+é", Some(KEY), "api.x.com", Options::default()),
        secret("TOKEN", "t0ken-value", Some(TOKEN), "*.y.com", everywhere),
    ];
    Secrets::new(secrets).ok().unwrap()
}

fn towards(host: &str, verified: bool) -> Exchange {
    secrets().towards(&host.parse::<Host>().unwrap(), verified)
}

fn said(changed: matchlock_net::secret::Changed) -> String {
    match changed {
        Ok(Some(changed)) => String::from_utf8(changed.to_vec()).unwrap(),
        Ok(None) => "as it is".to_owned(),
        Err(e) => e.to_string(),
    }
}

/// A stream in these pieces.
fn streamed(mut replacer: Replacer, pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&replacer.feed(piece).map_err(|e| e.to_string())?);
    }
    out.extend_from_slice(&replacer.finish().map_err(|e| e.to_string())?);
    Ok(out)
}

#[test]
fn placeholders_become_values_for_their_host_only() {
    let refused = "secret placeholder sent to unauthorized host (KEY)";
    let bearer = format!("Bearer {KEY}, {KEY}");
    assert_eq!(said(towards("api.x.com", true).header(bearer.as_bytes())), "Bearer s3cr3t/+é, s3cr3t/+é");
    assert_eq!(said(towards("api.x.com", true).header(b"text/plain")), "as it is");
    let clear = "secret placeholder sent without TLS (KEY)";
    for (host, verified, refused) in [
        ("x.com", true, refused),
        ("evil-api.x.com", true, refused),
        ("203.0.113.9", true, refused),
        ("api.x.com", false, clear),
    ] {
        let exchange = towards(host, verified);
        assert_eq!(said(exchange.header(bearer.as_bytes())), refused, "{host}");
        assert_eq!(said(exchange.query(format!("a={KEY}").as_bytes())), refused);
        assert_eq!(exchange.unreplaced("a path", format!("/{KEY}/").as_bytes()).unwrap_err().to_string(), refused);
        let basic = format!("basic {}", STANDARD.encode(format!("me:{KEY}")));
        assert_eq!(said(exchange.header(basic.as_bytes())), refused);
    }
    assert_eq!(said(towards("a.y.com", false).header(TOKEN.as_bytes())), "t0ken-value");
}

#[test]
fn credentials_and_queries_have_their_own_spelling() {
    let exchange = towards("api.x.com", true);
    for padding in ["", "=", "=="] {
        let encoded = STANDARD.encode(format!("me:{KEY}{}", "x".repeat(3 - padding.len())));
        for encoded in [encoded.as_str(), encoded.trim_end_matches('=')] {
            let out = said(exchange.header(format!("bASIC {encoded}").as_bytes()));
            let decoded = STANDARD.decode(out.strip_prefix("Basic ").unwrap()).unwrap();
            assert!(String::from_utf8(decoded).unwrap().starts_with("me:s3cr3t/+éx"), "{out}");
        }
    }
    assert_eq!(said(exchange.query(format!("a=b&k={KEY}#").as_bytes())), "a=b&k=s3cr3t%2F%2B%C3%A9#");
    let path = exchange.unreplaced("a path", format!("/{KEY}").as_bytes()).unwrap_err();
    assert_eq!(path.to_string(), "secret placeholder sent in a path, where it is not replaced (KEY)");
    assert_eq!((exchange.unreplaced("a path", b"/KEY"), exchange.used()), (Ok(()), vec!["KEY".to_owned()]));
    assert!(exchange.body().is_none_or(|body| streamed(body, &[KEY.as_bytes()]) == Ok(KEY.into())));
}

#[test]
fn bodies_are_replaced_where_that_was_asked_for() {
    let text = format!("{{\"token\": \"{TOKEN}\"}}");
    let (begin, end) = text.as_bytes().split_at(15);
    let body = |host| streamed(towards(host, true).body().unwrap(), &[begin, end]);
    assert_eq!(body("a.y.com").unwrap(), b"{\"token\": \"t0ken-value\"}");
    assert_eq!(body("y.com").unwrap_err(), "secret placeholder sent to unauthorized host (TOKEN)");
}

#[test]
fn responses_do_not_tell_values() {
    let exchange = towards("api.x.com", true);
    let echo = "a s3cr3t/+é, ?k=s3cr3t%2F%2B%C3%A9".as_bytes();
    assert_eq!(**exchange.scrub(echo).as_ref().unwrap(), *format!("a {KEY}, ?k={KEY}").as_bytes());
    for cut in 0..echo.len() {
        let (begin, end) = echo.split_at(cut);
        let out = streamed(exchange.scrubber().unwrap(), &[begin, end]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("a {KEY}, ?k={KEY}"));
    }
    assert!(towards("x.com", true).scrubber().is_none());
}

/// What is left are the digits that have bits of what stands around it, and so at most some of the value's first and last byte.
#[test]
fn responses_do_not_tell_credentials_that_have_values() {
    let exchange = towards("api.x.com", true);
    for (text, left) in [
        (":s3cr3t/+é", ("On", "k=")),
        ("a:s3cr3t/+é", ("YTp", "")),
        ("ab:s3cr3t/+é", ("YWI6", "Q==")),
        ("abc:s3cr3t/+é", ("YWJjOn", "k=")),
        ("ab:s3cr3t/+é, and more", ("YWI6", "SwgYW5kIG1vcmU=")),
    ] {
        let credentials = STANDARD.encode(text);
        let echo = format!("{{\"authorization\": \"Basic {credentials}\"}}");
        let scrubbed = format!("{{\"authorization\": \"Basic {}{KEY}{}\"}}", left.0, left.1);
        assert_eq!(**exchange.scrub(echo.as_bytes()).unwrap(), *scrubbed.as_bytes(), "{text}");
        let pieces: Vec<_> = echo.as_bytes().chunks(3).collect();
        assert_eq!(streamed(exchange.scrubber().unwrap(), &pieces).unwrap(), scrubbed.as_bytes());
        let masked = streamed(exchange.masker().unwrap(), &pieces).unwrap();
        assert!(masked.len() == echo.len() && masked.ends_with(format!("**{}\"}}", left.1).as_bytes()));
    }
}

#[test]
fn an_event_is_not_kept_back() {
    let mut scrubber = towards("api.x.com", true).scrubber().unwrap();
    assert_eq!(**scrubber.feed(b"data: 1\n\n").unwrap(), *b"data: 1\n\n");
    assert!(!scrubber.keeps_blindly());
    assert_eq!(**scrubber.feed(b"data: s3").unwrap(), *b"");
    assert!(scrubber.keeps_blindly());
    assert_eq!(**scrubber.finish().unwrap(), *b"data: s3");
    assert_eq!(**scrubber.feed(b"c\nr").unwrap(), *b"c\n");
}

#[test]
fn a_value_does_not_come_back_in_a_name() {
    let exchange = Secrets::new(vec![secret("A", "Va-lue", None, "x.com", Options::default())]).ok().unwrap();
    let exchange = exchange.towards(&"x.com".parse().unwrap(), true);
    assert!(exchange.tells(b"x-va-lue") && exchange.tells(b"va-lue") && !exchange.tells(b"x-va-lu"));
}

#[test]
fn a_rotated_value_counts_from_the_next_exchange_on() {
    let host = "api.x.com".parse().unwrap();
    let value = |number: usize| Value::new(format!("rotated-{number}").into()).ok().unwrap();
    let mut rotated = secrets();
    for number in 0..=MAX_FORMER {
        rotated = rotated.rotated("KEY", value(number)).unwrap();
        let exchange = rotated.towards(&host, true);
        assert_eq!(said(exchange.header(KEY.as_bytes())), format!("rotated-{number}"));
        // A server may say still what it was.
        let scrubbed = exchange.scrub("s3cr3t/+é rotated-0".as_bytes()).unwrap();
        let first = if number < MAX_FORMER { KEY } else { "s3cr3t/+é" };
        assert_eq!(**scrubbed, *format!("{first} {KEY}").as_bytes(), "{number}");
    }
    assert!(rotated.rotated("NONE", value(0)).is_none());
}

#[test]
fn what_is_no_secret() {
    for value in ["", "a\nb", "a\r", "\0"] {
        assert_eq!(Value::new(value.into()).err(), Some(SecretError::Value));
    }
    let make = |placeholder: Option<&str>| {
        let value = Value::new(b"value".into()).ok().unwrap();
        Secret::new("A".into(), value, placeholder.map(Into::into), Vec::new(), Options::default())
    };
    for placeholder in ["", "1234567", "with space", "b\u{e4}rendienst"] {
        assert_eq!(make(Some(placeholder)).err(), Some(SecretError::Placeholder), "{placeholder}");
    }
    let own = make(None).ok().unwrap().placeholder().to_owned();
    let digits = own.strip_prefix("SANDBOX_SECRET_").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{own}");
    let named = |name, placeholder| secret(name, "v", Some(placeholder), "", Options::default());
    let two = |one, other| Secrets::new(vec![one, other]).err().map(|e| e.to_string());
    let alike = two(named("A", "12345678"), named("B", "x12345678"));
    assert_eq!(alike.unwrap(), "the placeholders of A and B are not to be told apart");
    assert_eq!(two(named("A", "12345678"), named("A", "abcdefgh")).unwrap(), "there are two secrets named A");
    // One that is for nobody goes nowhere.
    let nowhere = Secrets::new(vec![named("A", "12345678")]).ok().unwrap();
    assert!(nowhere.towards(&"x.com".parse().unwrap(), true).header(b"12345678").is_err());
}

proptest! {
    /// However a stream is cut, it becomes what the whole becomes.
    #[test]
    fn pieces_become_what_the_whole_becomes(
        parts in proptest::collection::vec(prop_oneof!["[aab12345678 ]{0,12}", Just("aabaab12".to_owned()), Just("aabaab123".to_owned())], 0..12),
        cuts in proptest::collection::vec(1_usize..9, 0..40),
    ) {
        let body = Options { body: true, without_tls: false };
        let secrets = vec![
            secret("A", "first-value", Some("aabaab12"), "x.com", body),
            secret("B", "aabaab-second", Some("345678aa"), "x.com", body),
        ];
        let exchange = Secrets::new(secrets).ok().unwrap().towards(&"x.com".parse().unwrap(), true);
        let text = parts.concat().into_bytes();
        let mut pieces = Vec::new();
        let mut rest = &text[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let sent = streamed(exchange.body().unwrap(), &pieces).unwrap();
        prop_assert_eq!(&sent, &streamed(exchange.body().unwrap(), &[&text]).unwrap());
        // No two of these overlap, so the order of replacing makes no difference.
        let once = parts.concat();
        if !once.contains("aabaab12345678aa") && !once.contains("345678aabaab12") {
            let plain = once.replace("aabaab12", "\u{1}").replace("345678aa", "\u{2}");
            let plain = plain.replace('\u{1}', "first-value").replace('\u{2}', "aabaab-second");
            prop_assert_eq!(String::from_utf8(sent.clone()).unwrap(), plain);
        }
        // And no value comes back, however its echo is cut.
        let back: Vec<_> = sent.chunks(3).collect();
        let back = String::from_utf8(streamed(exchange.scrubber().unwrap(), &back).unwrap()).unwrap();
        prop_assert!(!back.contains("first-value") && !back.contains("aabaab-second"));
    }

    /// Whoever gets a response, which may have words of theirs in it, does not see from what is kept back how a value begins.
    #[test]
    fn what_is_kept_back_goes_by_lengths(
        pieces in proptest::collection::vec("(s3cr3t/|czNjcjN0L|s|x|%2|\n){0,6}", 0..12),
    ) {
        let exchange = towards("api.x.com", true);
        for (mut one, mut other) in
            [(exchange.scrubber(), exchange.scrubber()), (exchange.masker(), exchange.masker())].map(|(one, other)| (one.unwrap(), other.unwrap()))
        {
            for piece in &pieces {
                let blank = piece.replace(|letter: char| letter != '\n', ".");
                prop_assert_eq!(one.feed(piece.as_bytes()).unwrap().len(), other.feed(blank.as_bytes()).unwrap().len());
            }
        }
    }
}
