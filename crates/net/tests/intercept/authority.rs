//! Certificates, as a client judges them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use matchlock_net::{
    intercept::{Authority, CACHED_LEAVES},
    policy::Host,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};

/// What a client that trusts `authority` says of `leaf` when it has asked for `host`, so long from now.
fn verdict(authority: &Authority, leaf: &CertifiedKey, host: &str, later: Duration) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let name = ServerName::try_from(host).unwrap();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + later;
    let (end, between) = leaf.cert.split_first().unwrap();
    let outcome = verifier.verify_server_cert(end, between, &name, &[], UnixTime::since_unix_epoch(since));
    outcome.map(drop).map_err(|e| e.to_string())
}

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

#[test]
fn a_leaf_is_for_its_host_only() {
    let authority = Authority::new("a sandbox").unwrap();
    let long = format!("{0}.{0}.{0}.com", "a".repeat(60));
    for (own, other) in [
        ("api.x.com", "x.com"),
        ("a_b.x.com", "api.x.com"),
        ("93.184.216.34", "93.184.216.35"),
        ("2001:db8::1", "2001:db8::2"),
        (long.as_str(), "x.com"),
    ] {
        let leaf = authority.leaf(&host(own)).unwrap();
        assert_eq!(verdict(&authority, &leaf, own, Duration::ZERO), Ok(()), "{own}");
        verdict(&authority, &leaf, other, Duration::ZERO).unwrap_err();
        verdict(&authority, &leaf, own, Duration::from_hours(24 * 398)).unwrap_err();
        verdict(&Authority::new("a sandbox").unwrap(), &leaf, own, Duration::ZERO).unwrap_err();
    }
}

#[test]
fn a_leaf_is_minted_once_whoever_asks() {
    let authority = Authority::new("a sandbox").unwrap();
    let leaves: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| authority.leaf(&host("X.com.")).unwrap())).collect();
        asked.into_iter().map(|leaf| leaf.join().unwrap()).collect()
    });
    assert!(leaves.iter().all(|leaf| Arc::ptr_eq(leaf, &leaves[0])));
}

#[test]
fn what_is_used_is_kept_and_what_is_not_is_forgotten() {
    let authority = Authority::new("a sandbox").unwrap();
    let leaf = |name: &str| authority.leaf(&host(name)).unwrap();
    let (used, unused) = (leaf("used.com"), leaf("unused.com"));
    for i in 0..CACHED_LEAVES - 1 {
        leaf(&format!("a{i}.com"));
        assert!(Arc::ptr_eq(&used, &leaf("used.com")));
    }
    assert!(!Arc::ptr_eq(&unused, &leaf("unused.com")));
}
