//! The examples of `docs/policy.md` are policy files, and do what the page says.

use matchlock_net::rules::PolicyFile;

use crate::{asked, told};

/// The page's blocks of one kind.
fn blocks(kind: &str) -> Vec<String> {
    let page = include_str!("../../../../docs/policy.md");
    let blocks = page.split("\n```").skip(1).step_by(2);
    let blocks: Vec<_> = blocks.filter_map(|block| block.strip_prefix(kind)).map(ToOwned::to_owned).collect();
    assert!(!blocks.is_empty());
    blocks
}

#[test]
fn every_example_is_a_policy() {
    for block in blocks("toml\n") {
        PolicyFile::parse("policy.toml", &block).unwrap_or_else(|error| panic!("{error}\n{block}"));
    }
}

#[test]
fn the_first_example_does_what_it_says() {
    let policy = PolicyFile::parse("policy.toml", &blocks("toml\n")[0]).unwrap();
    let allowed: Vec<_> = policy.allowed.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["*.pypi.org", "files.pythonhosted.org", "db.internal:5432", "api.github.com:443"]);
    let rules = policy.rules;
    assert!(asked(&rules, "api.github.com", "GET /repos/me/project/issues").is_ok());
    assert!(asked(&rules, "api.github.com", "POST /repos/me/project/issues/7/comments").is_ok());
    for line in ["POST /repos/me/project/issues", "GET /user", "GET /repos/you/project", "DELETE /repos/me/project"] {
        assert!(told(&rules, "api.github.com", line).starts_with('!'), "{line}");
    }
    assert!(asked(&rules, "pypi.org", "POST /anything").is_ok());
}

/// The page's errors are those that are given.
#[test]
fn the_errors_are_told_as_they_are() {
    let told: Vec<_> = blocks("text\n")
        .concat()
        .lines()
        .filter(|line| line.starts_with("policy.toml:"))
        .map(ToOwned::to_owned)
        .collect();
    assert!(!told.is_empty());
    let given = [
        "[[rule]]\nhosts = [\"api.x.com\"]",
        "[[rule]]\naction = \"block\"\nmethds = [\"GET\"]",
        "[[rule]]\naction = \"allow\"\nhosts = [\"*\"]\nmethods = [\"GET\"]",
    ];
    let given = given.map(|text| PolicyFile::parse("policy.toml", text).unwrap_err().to_string());
    assert_eq!(told, given);
}
