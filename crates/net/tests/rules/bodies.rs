//! Texts of bodies: replaced in pieces as in the whole, of events only within lines of data.

use http::{Response, response::Parts};
use matchlock_net::rules::{BodyRewriter, MAX_GROWN, TooLarge};
use proptest::prelude::*;

use crate::{asked, rules};

fn response(kind: &str) -> Parts {
    Response::builder().header("content-type", kind).body(()).unwrap().into_parts().0
}

/// Replacements as `[(find, with)]`.
fn rewriter(replace: &[(String, String)], kind: &str) -> BodyRewriter {
    let replace: Vec<_> =
        replace.iter().map(|(find, with)| format!("{{ find = '{find}', with = '{with}' }}")).collect();
    let rules = rules(&format!("[[rule]]\naction = 'mutate'\nreplace = [{}]", replace.join(", ")));
    let (matched, _) = asked(&rules, "x.com", "GET /").unwrap();
    matched.response(&mut response(kind)).unwrap().unwrap()
}

fn owned(replace: &[(&str, &str)]) -> Vec<(String, String)> {
    replace.iter().map(|(find, with)| ((*find).to_owned(), (*with).to_owned())).collect()
}

fn through(mut rewriter: BodyRewriter, pieces: &[&[u8]]) -> Result<String, TooLarge> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend(rewriter.feed(piece)?);
    }
    out.extend(rewriter.finish()?);
    Ok(String::from_utf8(out).unwrap())
}

fn whole(replace: &[(&str, &str)], kind: &str, body: &str) -> String {
    through(rewriter(&owned(replace), kind), &[body.as_bytes()]).unwrap()
}

#[test]
fn all_occurrences_in_order() {
    assert_eq!(
        whole(&[("cat", "dog"), ("dogs", "hounds")], "text/plain", "cats and dogs, a cat"),
        "hounds and hounds, a dog"
    );
    assert_eq!(whole(&[("aa", "b")], "text/plain", "aaaaa"), "bba");
    assert_eq!(whole(&[("secret", "")], "application/json", r#"{"secret":"secret"}"#), r#"{"":""}"#);
}

#[test]
fn of_events_only_within_lines_of_data() {
    let events = "event: cat\ndata: cat\ndata:cat\r\n: cat\rdata: a cat\r\ndat: cat\n data: cat\nid: cat\n\ndata: cat";
    assert_eq!(
        whole(&[("cat", "dog")], "text/event-stream; charset=utf-8", events),
        "event: cat\ndata: dog\ndata:dog\r\n: cat\rdata: a dog\r\ndat: cat\n data: cat\nid: cat\n\ndata: dog"
    );
    // The line is replaced in as a whole, but never across its end.
    assert_eq!(whole(&[("data: [DONE]", "data: done")], "TEXT/EVENT-STREAM", "data: [DONE]\n\n"), "data: done\n\n");
    assert_eq!(
        whole(&[("cat", "x")], "text/event-stream", "data: c\ndata: at\ndata: cat\n"),
        "data: c\ndata: at\ndata: x\n"
    );
    // Clients skip a mark at the beginning, so it hides nothing.
    assert_eq!(
        whole(&[("cat", "dog")], "text/event-stream", "\u{feff}data: cat\n\u{feff}data: cat"),
        "\u{feff}data: dog\n\u{feff}data: cat"
    );
}

#[test]
fn an_event_goes_on_as_soon_as_its_line_is_there() {
    let mut rewriter = rewriter(&owned(&[("cat", "dog")]), "text/event-stream");
    assert_eq!(rewriter.feed(b"data: a ca").unwrap(), b"data: a ");
    assert_eq!(rewriter.feed(b"t\n").unwrap(), b"dog\n");
    assert_eq!(rewriter.feed(b"data: ca\n\n").unwrap(), b"data: ca\n\n");
}

#[test]
fn what_grows_beyond_the_bound_is_an_error() {
    let (long, longer) = ("a".repeat(1000), "b".repeat(1000));
    let replace = owned(&[("x", &long), ("a", &longer)]);
    let piece = "x".repeat(MAX_GROWN / 1_000_000 + 1);
    assert_eq!(through(rewriter(&replace, "text/plain"), &[piece.as_bytes()]), Err(TooLarge));
    assert_eq!(through(rewriter(&replace, "text/event-stream"), &[b"data: ", piece.as_bytes()]), Err(TooLarge));
    // A piece that is as large by itself is fine.
    let piece = "y".repeat(MAX_GROWN + 1);
    assert_eq!(through(rewriter(&replace, "text/plain"), &[piece.as_bytes()]).unwrap().len(), piece.len());
}

/// Cut where the numbers say.
fn cut<'a>(body: &'a [u8], at: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = at.iter().map(|at| at % (body.len() + 1)).chain([0, body.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|ends| &body[ends[0]..ends[1]]).collect()
}

fn replacements() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[ab:]{1,4}", "[abc]{0,4}"), 1..4)
}

proptest! {
    #[test]
    fn in_pieces_as_in_the_whole(replace in replacements(), body in "[abc]{0,40}", at in prop::collection::vec(0..41_usize, 0..8)) {
        let expected = replace.iter().fold(body.clone(), |body, (find, with)| body.replace(find, with));
        let got = through(rewriter(&replace, "text/plain"), &cut(body.as_bytes(), &at)).unwrap();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn events_in_pieces_as_line_by_line(
        replace in replacements(),
        lines in prop::collection::vec(("(data:|data|dat:|:|)[abc]{0,8}", prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n"])), 0..6),
        last in "(data:)?[abc]{0,8}",
        at in prop::collection::vec(0..80_usize, 0..8),
    ) {
        let one = |line: &str| if line.starts_with("data:") {
            replace.iter().fold(line.to_owned(), |line, (find, with)| line.replace(find, with))
        } else {
            line.to_owned()
        };
        let (mut body, mut expected) = (String::new(), String::new());
        for (line, end) in lines.iter().map(|(line, end)| (line, *end)).chain([(&last, "")]) {
            body += &[line, end].concat();
            expected += &[&one(line), end].concat();
        }
        let got = through(rewriter(&replace, "text/event-stream"), &cut(body.as_bytes(), &at)).unwrap();
        prop_assert_eq!(got, expected);
    }
}
