//! Replacing texts in a stream that comes in pieces: the outcome is that of replacing in the whole.
//!
//! The end of a piece can be the beginning of a match, and has to be kept back until more is known. Where whoever gets the outcome must
//! not know the texts, that is decided by lengths and control characters alone, which no text has: a reader whose own words come back
//! to it would otherwise see which of them begin like a secret, and guess it byte by byte. An event of a stream, which ends with its
//! line, is passed on when it comes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use zeroize::Zeroizing;

/// A text, and what becomes of it.
pub(super) struct Pattern {
    pub(super) find: Zeroizing<Vec<u8>>,
    pub(super) found: Found,
}

pub(super) enum Found {
    /// By this. Whether it has happened is remembered.
    Replace(Zeroizing<Vec<u8>>, Arc<AtomicBool>),
    /// The text must not be there.
    Refuse(Misdirected),
}

/// A placeholder on its way to where it does not become a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misdirected {
    /// To a host that its secret, of this name, is not bound to.
    // These words are known to clients of the first Matchlock.
    #[error("secret placeholder sent to unauthorized host ({0})")]
    Host(String),
    /// To its host, but where the network can read it.
    #[error("secret placeholder sent without TLS ({0})")]
    WithoutTls(String),
    /// To its host, but where no value is put: the first says where.
    #[error("secret placeholder sent in {0}, where it is not replaced ({1})")]
    Unreplaced(&'static str, String),
}

/// What is kept back of a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// An end that is the beginning of a text.
    Likely,
    /// An end that could be that of any text as long as these.
    Blind,
}

/// One stream's replacements. The leftmost match counts, and of those the longest.
pub struct Replacer {
    patterns: Vec<Pattern>,
    keep: Keep,
    /// Bytes that a match can begin with.
    first: [bool; 256],
    kept: Zeroizing<Vec<u8>>,
}

impl Replacer {
    /// `None` if there is nothing to look for.
    pub(super) fn new(mut patterns: Vec<Pattern>, keep: Keep) -> Option<Self> {
        patterns.retain(|pattern| !pattern.find.is_empty());
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.find.len()));
        let mut first = [false; 256];
        for pattern in &patterns {
            first[usize::from(pattern.find[0])] = true;
        }
        (!patterns.is_empty()).then(|| Self { patterns, keep, first, kept: Zeroizing::default() })
    }

    /// What can be passed on of the stream after this piece of it.
    ///
    /// # Errors
    /// If a text is there that must not be. What was passed on before does not hold any of it.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        self.go_on(piece, false)
    }

    /// What was kept back, as if nothing came after it.
    ///
    /// # Errors
    /// As [`Replacer::feed`].
    pub fn finish(&mut self) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        self.go_on(&[], true)
    }

    /// Whether something is kept back that is most likely no part of a text, and to be let go if nothing follows.
    #[must_use]
    pub fn keeps_blindly(&self) -> bool {
        self.keep == Keep::Blind && !self.kept.is_empty()
    }

    fn go_on(&mut self, piece: &[u8], ended: bool) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        let mut joined = Zeroizing::new(Vec::with_capacity(self.kept.len() + piece.len()));
        joined.extend_from_slice(&self.kept);
        joined.extend_from_slice(piece);
        let decided = if ended { joined.len() } else { self.decided(&joined) };
        let (mut out, mut at) = (Zeroizing::new(Vec::with_capacity(joined.len())), 0);
        let begins = |byte: &u8| self.first[usize::from(*byte)];
        while let Some(skipped) = joined.get(at..decided).and_then(|open| open.iter().position(begins)) {
            push(&mut out, &joined[at..at + skipped]);
            at += skipped;
            let rest = &joined[at..];
            // The longest first: one that may still come whole goes before a shorter one that is here.
            let candidate =
                |pattern: &&Pattern| rest.starts_with(&pattern.find) || (!ended && pattern.find.starts_with(rest));
            match self.patterns.iter().find(candidate) {
                Some(pattern) if pattern.find.len() > rest.len() => {
                    self.kept = Zeroizing::new(rest.to_vec());
                    return Ok(out);
                }
                Some(Pattern { found: Found::Refuse(misdirected), .. }) => return Err(misdirected.clone()),
                Some(Pattern { find, found: Found::Replace(with, used) }) => {
                    used.store(true, Relaxed);
                    push(&mut out, with);
                    at += find.len();
                }
                None => {
                    push(&mut out, &rest[..1]);
                    at += 1;
                }
            }
        }
        let open = joined.get(at..decided).unwrap_or_default();
        push(&mut out, open);
        self.kept = Zeroizing::new(joined[at + open.len()..].to_vec());
        Ok(out)
    }

    /// Up to where it is known which texts begin there, or is looked at for what could be a beginning.
    fn decided(&self, joined: &[u8]) -> usize {
        let longest = self.patterns.first().map_or(0, |pattern| pattern.find.len());
        let by_length = (joined.len() + 1).saturating_sub(longest);
        match self.keep {
            Keep::Likely => joined.len(),
            Keep::Blind => by_length.max(joined.iter().rposition(u8::is_ascii_control).map_or(0, |at| at + 1)),
        }
    }
}

/// Grown by hand: what a vector leaves behind when it moves is not zeroed.
fn push(out: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    if out.capacity() - out.len() < bytes.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((out.len() + bytes.len()) * 2));
        larger.extend_from_slice(out);
        *out = larger;
    }
    out.extend_from_slice(bytes);
}

/// Replace in the whole at once; `None` if nothing of it changes.
pub(super) fn whole(patterns: Vec<Pattern>, text: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Misdirected> {
    let Some(mut replacer) = Replacer::new(patterns, Keep::Likely) else { return Ok(None) };
    let mut out = replacer.feed(text)?;
    push(&mut out, &replacer.finish()?);
    Ok((**out != *text).then_some(out))
}
