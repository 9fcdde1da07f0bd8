//! Policy files, and what rules make of requests.
//!
//! Up to the first NUL byte a policy, then the target of a request, then its method. A policy file is the user's own, but it must
//! never be half understood; the target is the guest's. Whatever both are: an error is one line that points into the
//! file, and what a known policy lets through it would let through again, unchanged.

#![no_main]

use http::{Request, request::Parts};
use libfuzzer_sys::fuzz_target;
use matchlock_net::{
    policy::Host,
    rules::{PolicyFile, Rules},
};

/// Allows what is below `/public`, but for what is called `keys`.
const KNOWN: &str = r#"
[[rule]]
action = "allow"
hosts = ["x.com"]
methods = ["GET", "POST"]
paths = ["/public/**"]
[[rule]]
action = "block"
paths = ["/**/keys"]
"#;

fuzz_target!(|data: &[u8]| {
    let mut pieces = data.splitn(3, |byte| *byte == 0).map(str::from_utf8);
    let Some(Ok(text)) = pieces.next() else { return };
    let policy = PolicyFile::parse("policy.toml", text);
    if let Err(error) = &policy {
        assert!(!error.to_string().contains('\n') && error.line <= 1 + text.matches('\n').count(), "{error}");
    }
    let (Some(Ok(target)), method) = (pieces.next(), pieces.next()) else { return };
    let method = method.and_then(Result::ok).unwrap_or("GET");
    let Ok(request) = Request::builder().method(method).uri(target).body(()) else { return };
    let (parts, ()) = request.into_parts();
    if let Ok(policy) = policy {
        let _ = asked(&policy.rules, parts.clone());
    }
    let known = PolicyFile::parse("policy.toml", KNOWN).expect("a policy").rules;
    if let Some(forwarded) = asked(&known, parts) {
        let path = forwarded.uri.path().to_owned();
        assert!(path == "/public" || path.starts_with("/public/"), "{path}");
        assert!(!path.split('/').any(|segment| matches!(segment, "." | "..")), "{path}");
        assert!(!path.trim_end_matches('/').ends_with("/keys"), "{path}");
        assert_eq!(asked(&known, forwarded).expect("the same again").uri.path(), path);
    }
});

/// What goes out to the host, if anything.
fn asked(rules: &Rules, mut parts: Parts) -> Option<Parts> {
    let host: Host = "x.com".parse().expect("a host");
    let matched = rules.request(&host, 443, &mut parts).ok()?;
    let mut response = http::Response::new(()).into_parts().0;
    if let Ok(Some(mut body)) = matched.response(&mut response) {
        let _ = body.feed(b"data: some text\n").and_then(|_| body.finish());
    }
    Some(parts)
}
