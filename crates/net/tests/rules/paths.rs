//! No spelling of a path goes past a rule, and what was judged is what is forwarded.

use std::fmt::Write;

use insta::assert_snapshot;
use matchlock_net::rules::{MAX_PATH, PathPattern};
use proptest::prelude::*;

use crate::{rules, table, told};

/// Blocks `/admin` and what is below it.
const BLOCK: &str = r#"
    [[rule]]
    name = "no admin"
    action = "block"
    paths = ["/admin/**"]
"#;

/// Allows `/public` and what is below it, and nothing else.
const ALLOW: &str = r#"
    [[rule]]
    action = "allow"
    hosts = ["x.com"]
    paths = ["/public/**"]
"#;

/// What some server takes for `/admin/x`.
const DISGUISED: &[&str] = &[
    "/admin",
    "/admin/",
    "/admin/x?a=b",
    "/%61dmin/x",
    "/%61%64%6D%69%6e",
    "/./admin/x",
    "/y/../admin/x",
    "/y/%2e%2E/admin/x",
    "/../admin",
    "//admin/x",
    "/admin//x",
    "/%2Fadmin/x",
    "/y%2F..%2Fadmin/x",
    "/y;a=b/../admin/x",
    "/y/..;/admin/x",
    "/admin;a=b/x",
    "/admin%3Ba=b/x",
    "/;x/admin",
    "/%2561dmin/x",
    "/y/%252e%252e/admin",
    "/y%252F..%252Fadmin",
    "/admin%3Fx",
    "/admin%23x",
    "/admin%253Fx",
    "/ADMIN/x",
    "/Admin;x//..;/%2561dmin",
];

#[test]
fn what_is_blocked_is_blocked_in_disguise() {
    let block = rules(BLOCK);
    for path in DISGUISED {
        assert_eq!(told(&block, "x.com", &format!("GET {path}")), "! blocked by a rule (no admin)", "{path}");
    }
}

#[test]
fn what_is_allowed_allows_nothing_in_disguise() {
    let allow = rules(ALLOW);
    for path in DISGUISED {
        // As if it were below what is allowed, to those that do not look closer.
        let hidden = format!("/public/..%2F{}", &path[1..]);
        for path in [*path, &hidden, &format!("/public/%2e%2e{path}"), &format!("/public/..;{path}")] {
            let told = told(&allow, "x.com", &format!("GET {path}"));
            // Or it goes out as what it is: `/public/..%2Fy/../admin` is `/public/admin` once dots are resolved.
            let plain = told.starts_with("GET /public/") && !told.contains(['%', ';']) && !told.contains("//");
            assert!(plain || told.starts_with("! no rule allows GET "), "{path}: {told}");
        }
    }
}

#[test]
fn what_is_let_through_goes_out_as_it_was_judged() {
    let given = [
        "/public",
        "/public/",
        "/public/%7Euser/a%20b",
        "/public/%c3%a9/%2f",
        "/public/ü",
        "/public/./a/../b?q=%2e%2e/",
        "/public/a/.",
        "/public/a%2Fb",
        "/public//a",
        "/public/a;v=1",
        "/public/100%25",
        "/public/what%3F",
        "/PUBLIC/a",
        "/public/..",
        "/",
        "*",
    ];
    let allow = rules(ALLOW);
    assert_snapshot!(table(given, |path| told(&allow, "x.com", &format!("GET {path}"))), @"
    /public                              GET /public
    /public/                             GET /public/
    /public/%7Euser/a%20b                GET /public/~user/a%20b
    /public/%c3%a9/%2f                   GET /public/%C3%A9/%2F
    /public/ü                            GET /public/%C3%BC
    /public/./a/../b?q=%2e%2e/           GET /public/b?q=%2e%2e/
    /public/a/.                          GET /public/a/
    /public/a%2Fb                        GET /public/a%2Fb
    /public//a                           GET /public//a
    /public/a;v=1                        GET /public/a;v=1
    /public/100%25                       GET /public/100%25
    /public/what%3F                      GET /public/what%3F
    /PUBLIC/a                            ! no rule allows GET /PUBLIC/a of x.com
    /public/..                           ! no rule allows GET /public/.. of x.com
    /                                    ! no rule allows GET / of x.com
    *                                    ! the path does not begin with /, and rules go by the path
    ");
}

#[test]
fn what_cannot_be_read_is_refused() {
    let block = rules(BLOCK);
    let given =
        ["/a%00b", "/a%0d%0ab", "/a\\b", "/a%5Cb", "/a%255Cb", "/a%zz", "/a%", "/%u0061dmin", "/%c0%af", "/%25252e"];
    assert_snapshot!(table(given, |path| told(&block, "x.com", &format!("GET {path}"))), @r"
    /a%00b                               ! the path has a control character or a backslash, and rules go by the path
    /a%0d%0ab                            ! the path has a control character or a backslash, and rules go by the path
    /a\b                                 ! the path has a control character or a backslash, and rules go by the path
    /a%5Cb                               ! the path has a control character or a backslash, and rules go by the path
    /a%255Cb                             ! the path has a control character or a backslash, and rules go by the path
    /a%zz                                ! the path has a % that begins no escape, and rules go by the path
    /a%                                  ! the path has a % that begins no escape, and rules go by the path
    /%u0061dmin                          ! the path has a % that begins no escape, and rules go by the path
    /%c0%af                              ! the path is not UTF-8, and rules go by the path
    /%25252e                             ! the path is encoded more than twice, and rules go by the path
    ");
    let long = format!("GET /{}", "a".repeat(MAX_PATH));
    assert_eq!(told(&block, "x.com", &long), "! the path is longer than 8192 bytes, and rules go by the path");
}

#[test]
fn without_rules_about_paths_none_is_touched() {
    let rules = rules("[[rule]]\naction = 'block'\nhosts = ['x.com']\nmethods = ['DELETE']");
    for path in ["/a/%2e%2e//b%zz", "/a\\b", "/%7E"] {
        assert_eq!(told(&rules, "x.com", &format!("GET {path}")), format!("GET {path}"));
    }
}

#[test]
fn patterns() {
    let given = [
        "/", "/**", "/*", "/a", "/a/", "/a/*", "/a/**", "/**/z", "/a/**/z", "/*.json", "/v[0-9]", "/v[^0-9]", r"/\*",
        r"/v[\]x]",
    ];
    let paths = ["/", "/a", "/a/b", "/a/b/z", "/z", "/x.json", "/v1", "/vx", "/%2A", "/v]"];
    let fits = |pattern: &str| {
        let rules = rules(&format!("[[rule]]\naction = 'allow'\nhosts = ['x.com']\npaths = ['{pattern}']"));
        let fits = |path: &&&str| !told(&rules, "x.com", &format!("GET {path}")).starts_with('!');
        paths.iter().filter(fits).copied().collect::<Vec<_>>().join(" ")
    };
    assert_snapshot!(table(given, fits), @r"
    /                                    /
    /**                                  / /a /a/b /a/b/z /z /x.json /v1 /vx /%2A /v]
    /*                                   /a /z /x.json /v1 /vx /%2A /v]
    /a                                   /a
    /a/                                  /a
    /a/*                                 /a/b
    /a/**                                /a /a/b /a/b/z
    /**/z                                /a/b/z /z
    /a/**/z                              /a/b/z
    /*.json                              /x.json
    /v[0-9]                              /v1
    /v[^0-9]                             /vx /v]
    /\*                                  /%2A
    /v[\]x]                              /vx /v]
    ");
}

#[test]
fn what_is_no_pattern() {
    let given = [
        "",
        "a",
        "https://x.com/a",
        "/a?b=c",
        "/a%20b",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a**",
        "/[",
        "/[]",
        "/[b-a]",
        "/[-a]",
        "/a\\",
    ];
    assert_snapshot!(table(given, |text| text.parse::<PathPattern>().unwrap_err().to_string()), @r"
                                         a pattern of paths begins with /
    a                                    a pattern of paths begins with /
    https://x.com/a                      a pattern of paths begins with /
    /a?b=c                               the query is no part of the path; \? is the character
    /a%20b                               a pattern is written decoded: a space is a space, not %20; \% is the character
    /a//b                                two slashes in a row are compared as one: write one
    /a/../b                              . and .. are resolved before a path is compared
    /./a                                 . and .. are resolved before a path is compared
    /a**                                 ** stands alone between slashes: /repos/** is /repos and everything below it
    /[                                   [ begins a set of characters ([0-9], [^a-z]) and needs its ]; \[ is the character
    /[]                                  [ begins a set of characters ([0-9], [^a-z]) and needs its ]; \[ is the character
    /[b-a]                               [ begins a set of characters ([0-9], [^a-z]) and needs its ]; \[ is the character
    /[-a]                                [ begins a set of characters ([0-9], [^a-z]) and needs its ]; \[ is the character
    /a\                                  \ at the end takes the meaning of nothing; \\ is the character
    ");
}

/// A segment as it is, and the same in another spelling: characters escaped that need not be, detours.
fn spelled() -> impl Strategy<Value = (String, String)> {
    let segment = prop::collection::vec((prop::char::range('a', 'd'), 0..4_u8), 1..4);
    let detour = prop::sample::select(vec!["", "./", "%2E/", "x/../", "x/%2e%2e/", "a/b/../.%2e/"]);
    prop::collection::vec((segment, detour), 1..5).prop_map(|segments| {
        let (mut plain, mut other) = (String::new(), String::new());
        for (characters, detour) in segments {
            plain.push('/');
            other.push('/');
            other.push_str(detour);
            for (c, spelling) in characters {
                plain.push(c);
                match spelling {
                    0 => write!(other, "%{:02x}", u32::from(c)).unwrap(),
                    1 => write!(other, "%{:02X}", u32::from(c)).unwrap(),
                    _ => other.push(c),
                }
            }
        }
        (plain, other)
    })
}

/// Texts of patterns, of pieces that patterns are made of.
fn pattern() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec!["a", "ab", "*", "[a-c]", "[^a]", "\\*", "é"]);
    let segment = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat().replace("**", "*"));
    let segment = prop_oneof![4 => segment, 1 => Just("**".to_owned())];
    prop::collection::vec(segment, 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// What a pattern means, by trying everything.
fn means(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", rest)) => (0..=path.len()).any(|skipped| means(rest, &path[skipped..])),
        Some((own, rest)) => {
            let chars: Vec<_> = path.first().map(|first| first.chars().collect()).unwrap_or_default();
            !path.is_empty() && segment_means(&own.chars().collect::<Vec<_>>(), &chars) && means(rest, &path[1..])
        }
    }
}

fn segment_means(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|skipped| segment_means(rest, &text[skipped..])),
        ['[', 'a', '-', 'c', ']', rest @ ..] => matches!(text, ['a'..='c', ..]) && segment_means(rest, &text[1..]),
        ['[', '^', 'a', ']', rest @ ..] => matches!(text, [c, ..] if *c != 'a' && segment_means(rest, &text[1..])),
        ['\\', own, rest @ ..] | [own, rest @ ..] => {
            matches!(text, [c, ..] if c == own && segment_means(rest, &text[1..]))
        }
    }
}

proptest! {
    #[test]
    fn equal_paths_are_judged_and_forwarded_alike(text in pattern(), (plain, other) in spelled()) {
        for action in ["allow", "block"] {
            let rules = rules(&format!("[[rule]]\naction = '{action}'\nhosts = ['x.com']\npaths = ['{text}']"));
            let (plain, other) = (told(&rules, "x.com", &format!("GET {plain}")), told(&rules, "x.com", &format!("GET {other}")));
            prop_assert_eq!(plain.starts_with('!'), other.starts_with('!'));
            if !plain.starts_with('!') {
                prop_assert_eq!(plain, other);
            }
        }
    }

    #[test]
    fn patterns_mean_what_trying_everything_says(text in pattern(), (plain, _) in spelled()) {
        let rules = rules(&format!("[[rule]]\naction = 'allow'\nhosts = ['x.com']\npaths = ['{text}']"));
        let split = |text: &str| text.split('/').skip(1).filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect::<Vec<_>>();
        let (pattern, path) = (split(&text), split(&plain));
        let (pattern, path): (Vec<_>, Vec<_>) = (pattern.iter().map(String::as_str).collect(), path.iter().map(String::as_str).collect());
        let allowed = !told(&rules, "x.com", &format!("GET {plain}")).starts_with('!');
        prop_assert_eq!(allowed, means(&pattern, &path));
    }

    #[test]
    fn patterns_are_shown_as_they_parse(text in pattern()) {
        let parsed: PathPattern = text.parse().unwrap();
        prop_assert_eq!(&parsed.to_string().parse::<PathPattern>().unwrap(), &parsed);
    }

    /// Whatever a guest writes: an answer, and the same one for what is forwarded.
    #[test]
    fn what_is_forwarded_is_judged_the_same_again(path in "/[a-d%2ef/;.]{0,24}") {
        let (allow, block) = (rules(ALLOW), rules(BLOCK));
        for rules in [&allow, &block] {
            let first = told(rules, "x.com", &format!("GET {path}"));
            if !first.starts_with('!') {
                prop_assert_eq!(told(rules, "x.com", &first), first);
            }
        }
    }
}
