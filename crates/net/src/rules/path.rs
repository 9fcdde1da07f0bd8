//! The path of a request: its one spelling, which is forwarded, and the readings that servers may have of it.
//!
//! A path is first brought into *canonical form* (RFC 3986, section 6.2.2): escapes of characters that need none are decoded,
//! the others written in upper case, `.` and `..` resolved. That is what goes to the server, whatever the guest wrote.
//!
//! What is left is what servers do not agree on: `/a%2Fb` has one segment or two, `//` may be `/`, `;x` may be no part of the
//! path, some decode twice. Rules are therefore asked about every [`Reading`]: what forbids does so if it fits *any* of them, what
//! allows has to fit *all* of them. What no honest client writes (`%00`, `\`, a `%` that begins no escape) is refused.

use thiserror::Error;

use crate::percent;

/// Bytes of a path that rules are asked about.
pub const MAX_PATH: usize = 8 * 1024;

/// What stands in a segment as it is, besides letters and digits (RFC 3986, section 3.3).
const PLAIN: &[u8] = b"-._~!$&'()*+,;=:@";

/// A path that rules can be asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// What is forwarded.
    pub(super) canonical: String,
    /// At least one; that of RFC 3986 first.
    pub(super) readings: Vec<Reading>,
}

/// Decoded segments; a trailing slash is none.
pub(super) type Reading = Vec<String>;

/// Why rules cannot be asked about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// `*`, or nothing.
    #[error("the path does not begin with /")]
    Relative,
    /// Over [`MAX_PATH`].
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// `%zz`, `%u002e`, or a `%` at the end.
    #[error("the path has a % that begins no escape")]
    Escape,
    /// A control character, or `\`, which some take for `/`.
    #[error("the path has a control character or a backslash")]
    Character,
    /// Bytes that are no UTF-8: overlong spellings of other characters among them.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// Escapes of escapes of escapes.
    #[error("the path is encoded more than twice")]
    TooDeep,
}

impl Path {
    /// Read a path as it stands in a request.
    pub(super) fn read(raw: &str) -> Result<Self, Unreadable> {
        if raw.len() > MAX_PATH {
            return Err(Unreadable::TooLong);
        }
        let segments = raw.strip_prefix('/').ok_or(Unreadable::Relative)?.split('/');
        let segments = segments.map(canonical_segment).collect::<Result<Vec<_>, _>>()?;
        let segments = resolve(segments);
        let decoded = segments.iter().map(|segment| decode(segment)).collect::<Result<_, _>>()?;
        Ok(Self { canonical: format!("/{}", segments.join("/")), readings: readings(decoded)? })
    }
}

/// Everything that a server may take the segments for: each step is done by some and not by others.
fn readings(decoded: Reading) -> Result<Vec<Reading>, Unreadable> {
    let twice = decoded.iter().map(|segment| decode(segment)).collect::<Result<Reading, _>>()?;
    if twice.iter().any(|segment| has_escape(segment)) {
        return Err(Unreadable::TooDeep);
    }
    let mut readings = vec![decoded];
    with(&mut readings, |_| twice.clone());
    for step in [cut_query, split_slashes, drop_parameters, drop_empty] {
        with(&mut readings, step);
    }
    // Everybody resolves what is left of dots at some time, before or after they drop empty segments.
    let mut readings: Vec<_> = readings.into_iter().map(resolve).collect();
    with(&mut readings, drop_empty);
    for reading in &mut readings {
        reading.pop_if(|last| last.is_empty());
    }
    Ok(readings)
}

/// These, and what they become for whoever does `step`.
fn with(readings: &mut Vec<Reading>, step: impl Fn(&Reading) -> Reading) {
    for at in 0..readings.len() {
        let other = step(&readings[at]);
        if !readings.contains(&other) {
            readings.push(other);
        }
    }
}

/// Servers that decode first and look for the query then.
fn cut_query(reading: &Reading) -> Reading {
    let mut cut = Vec::with_capacity(reading.len());
    for segment in reading {
        match segment.find(['?', '#']) {
            Some(end) => {
                cut.push(segment[..end].to_owned());
                break;
            }
            None => cut.push(segment.clone()),
        }
    }
    cut
}

/// Servers to which an escaped slash is a slash.
fn split_slashes(reading: &Reading) -> Reading {
    reading.iter().flat_map(|segment| segment.split('/')).map(ToOwned::to_owned).collect()
}

/// Servers to which `;` begins parameters of the segment (RFC 3986, section 3.3).
fn drop_parameters(reading: &Reading) -> Reading {
    reading.iter().map(|segment| segment.split(';').next().unwrap_or_default().to_owned()).collect()
}

/// Servers to which several slashes are one.
fn drop_empty(reading: &Reading) -> Reading {
    reading.iter().filter(|segment| !segment.is_empty()).cloned().collect()
}

/// Without `.` and `..` (RFC 3986, section 5.2.4); at the end they leave a slash.
fn resolve(segments: Vec<String>) -> Vec<String> {
    let mut resolved = Vec::with_capacity(segments.len());
    let last = segments.len().saturating_sub(1);
    for (at, segment) in segments.into_iter().enumerate() {
        match segment.as_str() {
            "." => {}
            ".." => drop(resolved.pop()),
            _ => {
                resolved.push(segment);
                continue;
            }
        }
        if at == last {
            resolved.push(String::new());
        }
    }
    resolved
}

/// A segment as it would be written by all who follow the RFC.
fn canonical_segment(raw: &str) -> Result<String, Unreadable> {
    let mut canonical = String::with_capacity(raw.len());
    let bytes = raw.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            percent::push(&mut canonical, escaped(&bytes[at..]).ok_or(Unreadable::Escape)?);
            at += 3;
            continue;
        }
        if byte == b'\\' || byte.is_ascii_control() {
            return Err(Unreadable::Character);
        }
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            canonical.push(char::from(byte));
        } else {
            percent::push(&mut canonical, byte);
        }
        at += 1;
    }
    Ok(canonical)
}

fn decode(segment: &str) -> Result<String, Unreadable> {
    let text = String::from_utf8(unescape(segment)).map_err(|_| Unreadable::NotUtf8)?;
    if text.contains(|c: char| c == '\\' || c.is_control()) { Err(Unreadable::Character) } else { Ok(text) }
}

/// A `%` that begins no escape stays: a text that was decoded before may have it.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let decoded = escaped(&bytes[at..]);
        plain.push(decoded.unwrap_or(byte));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    plain
}

fn has_escape(text: &str) -> bool {
    (0..text.len()).any(|at| escaped(&text.as_bytes()[at..]).is_some())
}

/// The byte of an escape at the beginning.
pub(super) fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match bytes {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}
