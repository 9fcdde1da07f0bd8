//! Patterns of paths.

use std::{
    fmt,
    str::{Chars, FromStr},
};

use thiserror::Error;

use super::path::{Reading, escaped};

/// Bytes of a pattern.
pub const MAX_PATTERN: usize = 1024;

/// Which paths are meant: decoded segments between slashes.
///
/// | pattern | means |
/// |---|---|
/// | `/v1/models` | this path, with or without a slash at its end |
/// | `/repos/*` | one segment there: `/repos/a`, neither `/repos` nor `/repos/a/b` |
/// | `/repos/**` | whatever begins so: `/repos`, `/repos/a/b` |
/// | `/v[0-9]/*.json` | `[0-9]` is one of these characters, `[^0-9]` one that is not |
/// | `/a\*b` | `\` takes its meaning from what follows |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`: any number of segments.
    Any,
    /// One of which each token is so.
    One(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`: any number of characters.
    Star,
    /// `?`.
    Character,
    /// `[a-z]`, or `[^a-z]`.
    Class {
        ranges: Vec<(char, char)>,
        inside: bool,
    },
    Literal(char),
}

/// Why a text is no pattern of paths.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathPatternError {
    /// At its beginning.
    #[error("a pattern of paths begins with /")]
    Relative,
    /// Over [`MAX_PATTERN`].
    #[error("a pattern has at most {MAX_PATTERN} bytes")]
    TooLong,
    /// Beside other characters.
    #[error("** stands alone between slashes: /repos/** is /repos and everything below it")]
    TwoStars,
    /// No `]`, nothing within, or a range that is none.
    #[error("[ begins a set of characters ([0-9], [^a-z]) and needs its ]; \\[ is the character")]
    Class,
    /// Nothing after it.
    #[error("\\ at the end takes the meaning of nothing; \\\\ is the character")]
    Backslash,
    /// `.` or `..` as a segment: no path has them when it is judged.
    #[error(". and .. are resolved before a path is compared")]
    Dots,
    /// Two slashes in a row.
    #[error("two slashes in a row are compared as one: write one")]
    Empty,
    /// `?`.
    #[error("the query is no part of the path; \\? is the character")]
    Query,
    /// `%` and two digits.
    #[error("a pattern is written decoded: a space is a space, not %20; \\% is the character")]
    Escape,
}

impl PathPattern {
    /// Whether it means this reading; `any_case` if `A` is `a`, too.
    pub(super) fn matches(&self, reading: &Reading, any_case: bool) -> bool {
        let fits = |segment: &Segment, text: &String| match segment {
            Segment::Any => true,
            Segment::One(tokens) => one(tokens, text, any_case),
        };
        wild(&self.segments, reading, |segment| *segment == Segment::Any, fits)
    }
}

fn one(tokens: &[Token], text: &str, any_case: bool) -> bool {
    let text: Vec<_> = text.chars().collect();
    wild(tokens, &text, |token| *token == Token::Star, |token, c| token.fits(*c, any_case))
}

/// Whether `given` is what `pattern` says, in which those that are `star` stand for any number of the given. Going back to the
/// latest star is enough, since everything else stands for exactly one.
fn wild<P, T>(pattern: &[P], given: &[T], star: impl Fn(&P) -> bool, fits: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut of, mut latest) = (0, 0, None);
    while let Some(item) = given.get(at) {
        match pattern.get(of) {
            Some(own) if star(own) => {
                of += 1;
                latest = Some((of, at));
            }
            Some(own) if fits(own, item) => (at, of) = (at + 1, of + 1),
            _ => {
                let Some((after, from)) = latest else { return false };
                (at, of) = (from + 1, after);
                latest = Some((after, at));
            }
        }
    }
    pattern[of..].iter().all(star)
}

impl Token {
    fn fits(&self, c: char, any_case: bool) -> bool {
        let is = |c: char| match self {
            Self::Star | Self::Character => true,
            Self::Literal(own) => *own == c,
            Self::Class { ranges, inside } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) == *inside
            }
        };
        is(c) || any_case && (is(c.to_ascii_lowercase()) || is(c.to_ascii_uppercase()))
    }
}

/// As in a policy file: what can be taken for a query or an escape is refused.
impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        parse(text, segment_of_file)
    }
}

impl PathPattern {
    /// As in a rule of the protocol's, where `?` is one character, and `%` a percent sign.
    pub(super) fn of_rpc(text: &str) -> Result<Self, PathPatternError> {
        parse(text, segment)
    }
}

fn parse(
    text: &str,
    segment: impl Fn(&str) -> Result<Segment, PathPatternError>,
) -> Result<PathPattern, PathPatternError> {
    if text.len() > MAX_PATTERN {
        return Err(PathPatternError::TooLong);
    }
    let below = text.strip_prefix('/').ok_or(PathPatternError::Relative)?;
    let below = below.strip_suffix('/').unwrap_or(below);
    let segments =
        if below.is_empty() { Vec::new() } else { below.split('/').map(segment).collect::<Result<_, _>>()? };
    Ok(PathPattern { text: format!("/{below}").into(), segments })
}

fn segment_of_file(text: &str) -> Result<Segment, PathPatternError> {
    let bare = |at: usize| at == 0 || text.as_bytes()[at - 1] != b'\\';
    if text.match_indices('?').any(|(at, _)| bare(at)) {
        return Err(PathPatternError::Query);
    }
    if text.match_indices('%').any(|(at, _)| bare(at) && escaped(&text.as_bytes()[at..]).is_some()) {
        return Err(PathPatternError::Escape);
    }
    segment(text)
}

fn segment(text: &str) -> Result<Segment, PathPatternError> {
    match text {
        "**" => return Ok(Segment::Any),
        "" => return Err(PathPatternError::Empty),
        "." | ".." => return Err(PathPatternError::Dots),
        _ => {}
    }
    let mut tokens = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' if tokens.last() == Some(&Token::Star) => return Err(PathPatternError::TwoStars),
            '*' => Token::Star,
            '?' => Token::Character,
            '[' => class(&mut rest)?,
            '\\' => Token::Literal(rest.next().ok_or(PathPatternError::Backslash)?),
            c => Token::Literal(c),
        });
    }
    Ok(Segment::One(tokens))
}

/// What follows a `[`.
fn class(rest: &mut Chars<'_>) -> Result<Token, PathPatternError> {
    let inside = !rest.as_str().starts_with('^');
    if !inside {
        rest.next();
    }
    let mut ranges = Vec::new();
    while let Some(first) = character(rest)? {
        let last = if rest.as_str().starts_with('-') {
            rest.next();
            character(rest)?.ok_or(PathPatternError::Class)?
        } else {
            first
        };
        if last < first {
            return Err(PathPatternError::Class);
        }
        ranges.push((first, last));
    }
    if ranges.is_empty() { Err(PathPatternError::Class) } else { Ok(Token::Class { ranges, inside }) }
}

/// The next character of a class; `None` where it ends.
fn character(rest: &mut Chars<'_>) -> Result<Option<char>, PathPatternError> {
    match rest.next() {
        None | Some('-') => Err(PathPatternError::Class),
        Some(']') => Ok(None),
        Some('\\') => rest.next().map(Some).ok_or(PathPatternError::Class),
        Some(c) => Ok(Some(c)),
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
