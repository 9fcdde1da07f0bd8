//! Texts of a response's body, replaced while it streams.
//!
//! Each replacement is one pass over what the one before it has left, and keeps back no more than the beginning of a text that
//! may be one to replace. So a body of any length goes through in bounded memory, and comes out as if it had been
//! replaced in the whole.

use std::borrow::Cow;

use memchr::memmem::Finder;
use thiserror::Error;

use super::EditError;

/// Bytes of a text to be replaced, and of what replaces it.
pub const MAX_FIND: usize = 4096;

/// Bytes that replacements may make of one piece of a body: a server that knows the rules could have them make anything of it.
pub const MAX_GROWN: usize = 8 * 1024 * 1024;

/// The beginning of lines that are the payload of events.
const DATA: &[u8] = b"data:";

/// A mark that clients skip at the beginning of a stream (HTML Standard, section 9.2.5).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text, and what stands in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacement {
    find: String,
    with: String,
}

/// Replacements made one piece more than [`MAX_GROWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the replacements of the rules make more than {MAX_GROWN} bytes of one piece of the response")]
pub struct TooLarge;

/// What the body of one response goes through.
#[derive(Debug)]
pub struct BodyRewriter {
    passes: Vec<Pass>,
    /// `None`: everything is replaced in.
    events: Option<Line>,
}

/// Where in a line of events the stream is.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// In front of the first, after so many bytes of [`BYTE_ORDER_MARK`].
    Marked(usize),
    /// At its beginning, after so many bytes of [`DATA`], which are kept back.
    Begun(usize),
    Data,
    Other,
}

/// One replacement and what it keeps back.
#[derive(Debug)]
struct Pass {
    find: Finder<'static>,
    with: Vec<u8>,
    kept: Vec<u8>,
}

impl Replacement {
    pub(super) fn new(find: &str, with: &str) -> Result<Self, EditError> {
        match find.len() {
            0 => Err(EditError::EmptyFind),
            length if length.max(with.len()) > MAX_FIND => Err(EditError::LongFind),
            _ => Ok(Self { find: find.to_owned(), with: with.to_owned() }),
        }
    }
}

impl BodyRewriter {
    pub(super) fn new<'a>(replace: impl Iterator<Item = &'a Replacement>, events: bool) -> Self {
        Self { passes: replace.map(Pass::new).collect(), events: events.then_some(Line::Marked(0)) }
    }

    /// What can be passed on of the body after this piece of it. Of a stream of events, texts within one line that begins with
    /// `data:` are replaced, and no others.
    ///
    /// # Errors
    /// If the replacements grow beyond the bound. The response cannot go on then.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Vec<u8>, TooLarge> {
        let mut out = Vec::with_capacity(piece.len());
        match self.events {
            None => self.through(piece, false, &mut out)?,
            Some(line) => self.events = Some(self.lines(line, piece, &mut out)?),
        }
        if out.len() > MAX_GROWN.max(piece.len()) { Err(TooLarge) } else { Ok(out) }
    }

    /// The rest, after the last piece.
    ///
    /// # Errors
    /// As [`BodyRewriter::feed`].
    pub fn finish(mut self) -> Result<Vec<u8>, TooLarge> {
        let mut out = Vec::new();
        match self.events {
            Some(Line::Begun(seen)) => out.extend_from_slice(&DATA[..seen]),
            Some(Line::Marked(_) | Line::Other) => {}
            Some(Line::Data) | None => self.through(&[], true, &mut out)?,
        }
        Ok(out)
    }

    /// Through each line of the piece.
    fn lines(&mut self, mut line: Line, piece: &[u8], out: &mut Vec<u8>) -> Result<Line, TooLarge> {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            line = match line {
                Line::Marked(seen) if BYTE_ORDER_MARK.get(seen) == Some(&byte) => {
                    out.push(byte);
                    rest = after;
                    Line::Marked(seen + 1)
                }
                Line::Marked(seen) if seen == 0 || seen == BYTE_ORDER_MARK.len() => Line::Begun(0),
                Line::Marked(_) => Line::Other,
                Line::Begun(seen) if byte == DATA[seen] => {
                    rest = after;
                    if seen + 1 == DATA.len() {
                        self.through(DATA, false, out)?;
                        Line::Data
                    } else {
                        Line::Begun(seen + 1)
                    }
                }
                Line::Begun(seen) => {
                    out.extend_from_slice(&DATA[..seen]);
                    Line::Other
                }
                Line::Data | Line::Other => {
                    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
                    let (text, next) = rest.split_at(end.unwrap_or(rest.len()));
                    match line {
                        Line::Data => self.through(text, end.is_some(), out)?,
                        _ => out.extend_from_slice(text),
                    }
                    match next.split_first() {
                        Some((end, after)) => {
                            out.push(*end);
                            rest = after;
                            Line::Begun(0)
                        }
                        None => return Ok(line),
                    }
                }
            };
        }
        Ok(line)
    }

    /// Through all replacements; `ended` if nothing follows that a text could go on with.
    fn through(&mut self, text: &[u8], ended: bool, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let mut text = Cow::Borrowed(text);
        for pass in &mut self.passes {
            text = Cow::Owned(pass.go_on(&text, ended)?);
        }
        out.extend_from_slice(&text);
        Ok(())
    }
}

impl Pass {
    fn new(replacement: &Replacement) -> Self {
        let find = Finder::new(replacement.find.as_bytes()).into_owned();
        Self { find, with: replacement.with.clone().into_bytes(), kept: Vec::new() }
    }

    fn go_on(&mut self, piece: &[u8], ended: bool) -> Result<Vec<u8>, TooLarge> {
        let joined = [&std::mem::take(&mut self.kept), piece].concat();
        let (mut out, mut rest) = (Vec::with_capacity(joined.len()), &joined[..]);
        while let Some(at) = self.find.find(rest) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(&self.with);
            rest = &rest[at + self.find.needle().len()..];
            if out.len() > MAX_GROWN.max(joined.len()) {
                return Err(TooLarge);
            }
        }
        let kept = if ended { 0 } else { begun(rest, self.find.needle()) };
        let (passed, kept) = rest.split_at(rest.len() - kept);
        out.extend_from_slice(passed);
        self.kept = kept.to_vec();
        Ok(out)
    }
}

/// How many bytes at the end of `text`, which does not hold the whole of `find`, may be its beginning.
fn begun(text: &[u8], find: &[u8]) -> usize {
    let longest = find.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|length| text.ends_with(&find[..*length])).unwrap_or(0)
}
