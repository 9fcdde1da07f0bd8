//! An allow-list that changes while the sandbox runs.

use matchlock_net::policy::{NotIntercepting, Target};

use crate::{intercept, name, open};

fn targets<const N: usize>(texts: [&str; N]) -> [Target; N] {
    texts.map(|text| text.parse().unwrap())
}

#[test]
fn what_changed_is_told_in_one_spelling() {
    let mut policy = intercept(&["x.com"]);
    let added = policy.add(targets(["X.com.", "y.org:22", "Y.ORG:22", "10.0.0.5:*"])).unwrap();
    assert_eq!(added, targets(["y.org:22", "10.0.0.5"]));
    let deleted = policy.delete(targets(["*.x.com", "x.com:443", "y.org", "Y.org:22-22"])).unwrap();
    assert_eq!(deleted, targets(["y.org:22"]));
    assert_eq!(policy.allowed, targets(["x.com", "10.0.0.5"]));
}

#[test]
fn an_emptied_list_denies_everything() {
    let mut policy = intercept(&["x.com", "*"]);
    assert!(policy.name(&name("y.org")).is_allowed());
    policy.delete(targets(["x.com", "*"])).unwrap();
    assert!(!policy.name(&name("x.com")).is_allowed());
    assert!(!policy.name(&name("y.org")).is_allowed());
}

#[test]
fn an_open_network_gets_no_list() {
    assert_eq!(open().add(targets(["x.com"])), Err(NotIntercepting));
    assert_eq!(open().delete(targets(["x.com"])), Err(NotIntercepting));
}
