//! Replacing texts in a stream that comes in pieces: the outcome is that of replacing in the whole.
//!
//! Nothing is kept back but an end that could be the beginning of a match, so an event of a stream is passed on when it comes.

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

/// One stream's replacements. The leftmost match counts, and of those the longest.
pub struct Replacer {
    patterns: Vec<Pattern>,
    /// Bytes that a match can begin with.
    first: [bool; 256],
    kept: Zeroizing<Vec<u8>>,
}

impl Replacer {
    /// `None` if there is nothing to look for.
    pub(super) fn new(mut patterns: Vec<Pattern>) -> Option<Self> {
        patterns.retain(|pattern| !pattern.find.is_empty());
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.find.len()));
        let mut first = [false; 256];
        for pattern in &patterns {
            first[usize::from(pattern.find[0])] = true;
        }
        (!patterns.is_empty()).then(|| Self { patterns, first, kept: Zeroizing::default() })
    }

    /// What can be passed on of the stream after this piece of it.
    ///
    /// # Errors
    /// If a text is there that must not be. What was passed on before does not hold any of it.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        self.go_on(piece, false)
    }

    /// The rest, after the last piece.
    ///
    /// # Errors
    /// As [`Replacer::feed`].
    pub fn finish(&mut self) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        self.go_on(&[], true)
    }

    fn go_on(&mut self, piece: &[u8], ended: bool) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        let mut joined = Zeroizing::new(Vec::with_capacity(self.kept.len() + piece.len()));
        joined.extend_from_slice(&self.kept);
        joined.extend_from_slice(piece);
        let (mut out, mut at) = (Zeroizing::new(Vec::with_capacity(joined.len())), 0);
        while let Some(skipped) = joined[at..].iter().position(|byte| self.first[usize::from(*byte)]) {
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
        push(&mut out, &joined[at..]);
        self.kept = Zeroizing::default();
        Ok(out)
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
    let Some(mut replacer) = Replacer::new(patterns) else { return Ok(None) };
    let mut out = replacer.feed(text)?;
    push(&mut out, &replacer.finish()?);
    Ok((**out != *text).then_some(out))
}
