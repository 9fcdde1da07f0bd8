//! One request and its response, as far as secrets go: what is replaced where, and what is refused.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use super::{
    Misdirected, Replacer, SCRUBBED_FROM, Secret, Value,
    stream::{Found, Keep, Pattern, whole},
};
use crate::percent;

/// Clients write credentials with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a text became; `None` if it stays as it is.
pub type Changed = Result<Option<Zeroizing<Vec<u8>>>, Misdirected>;

/// What becomes of one request and its response.
pub struct Exchange {
    bound: Vec<Bound>,
    others: Vec<(Secret, Misdirected)>,
    /// All that values are looked for as in the response, with whose they are.
    spellings: OnceLock<Vec<(usize, Zeroizing<Vec<u8>>)>>,
}

struct Bound {
    secret: Secret,
    used: Arc<AtomicBool>,
}

impl Exchange {
    pub(super) fn new(bound: Vec<Secret>, others: Vec<(Secret, Misdirected)>) -> Self {
        let bound = bound.into_iter().map(|secret| Bound { secret, used: Arc::default() }).collect();
        Self { bound, others, spellings: OnceLock::new() }
    }

    /// Whether the host may see any secret.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        !self.bound.is_empty()
    }

    /// Names of the secrets that were put in so far.
    #[must_use]
    pub fn used(&self) -> Vec<String> {
        self.bound.iter().filter(|bound| bound.used.load(Relaxed)).map(|bound| bound.secret.name.clone()).collect()
    }

    /// The value of a header or a trailer of the request. Credentials of `Basic` (RFC 7617) are looked into.
    ///
    /// # Errors
    /// If it has the placeholder of a secret that is not for this host.
    pub fn header(&self, value: &[u8]) -> Changed {
        if let Some(credentials) = basic(value)
            && self.mentions(&credentials)
            && let Some(changed) = whole(self.patterns(Secret::as_it_is), &credentials)?
        {
            let encoded = Zeroizing::new(BASE64.encode(&*changed));
            return Ok(Some(Zeroizing::new([b"Basic ", encoded.as_bytes()].concat())));
        }
        if self.mentions(value) { whole(self.patterns(Secret::as_it_is), value) } else { Ok(None) }
    }

    /// The raw query of the request: values are percent-encoded (RFC 3986, section 2.1).
    ///
    /// # Errors
    /// As [`Exchange::header`].
    pub fn query(&self, query: &[u8]) -> Changed {
        if self.mentions(query) { whole(self.patterns(Secret::percent_encoded), query) } else { Ok(None) }
    }

    /// A text of the request where nothing is replaced, in whatever case, and what people call this place: a path, which servers write
    /// into their logs, or a name.
    ///
    /// # Errors
    /// If it has a placeholder.
    pub fn unreplaced(&self, place: &'static str, text: &[u8]) -> Result<(), Misdirected> {
        let others = self.others.iter().map(|(secret, misdirected)| (secret, misdirected.clone()));
        let bound = self.bound.iter().map(|Bound { secret, .. }| secret);
        let bound = bound.map(|secret| (secret, Misdirected::Unreplaced(place, secret.name.clone())));
        let found = others.chain(bound).find(|(secret, _)| has_in_any_case(text, secret.placeholder.as_bytes()));
        found.map_or(Ok(()), |(_, misdirected)| Err(misdirected))
    }

    /// The request's body; `None` if no secret asked for that. With one, the length may change.
    #[must_use]
    pub fn body(&self) -> Option<Replacer> {
        let replaced = self.bound.iter().filter(|bound| bound.secret.options.body);
        let replaced = replaced.map(|bound| bound.replaced(Secret::as_it_is));
        let refused = self.others.iter().filter(|(secret, _)| secret.options.body).map(refused);
        // The guest knows the placeholders.
        Replacer::new(replaced.chain(refused).collect(), Keep::Likely)
    }

    /// Whether the response can have values in it: then it is to be asked for without compression.
    #[must_use]
    pub fn is_scrubbed(&self) -> bool {
        !self.spellings().is_empty()
    }

    /// The response's body without values; `None` if it is passed on as it comes.
    #[must_use]
    pub fn scrubber(&self) -> Option<Replacer> {
        Replacer::new(self.scrubbed(), Keep::Blind)
    }

    /// As [`Exchange::scrubber`], for what has lengths within it: a value becomes as many asterisks.
    #[must_use]
    pub fn masker(&self) -> Option<Replacer> {
        let masked = self.scrubbed().into_iter().map(|Pattern { find, .. }| {
            let asterisks = Zeroizing::new(vec![b'*'; find.len()]);
            Pattern { find, found: Found::Replace(asterisks, Arc::default()) }
        });
        Replacer::new(masked.collect(), Keep::Blind)
    }

    /// The value of a header or a trailer of the response, without values of secrets; `None` if it stays as it is.
    #[must_use]
    pub fn scrub(&self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if let Some(credentials) = basic(value)
            && let Ok(Some(scrubbed)) = whole(self.scrubbed(), &credentials)
        {
            return Some(Zeroizing::new([b"Basic ", BASE64.encode(&*scrubbed).as_bytes()].concat()));
        }
        // Nothing is refused of a response.
        whole(self.scrubbed(), value).ok().flatten()
    }

    /// Whether a text of the response where nothing can be replaced, in whatever case, has a value of a secret: the name of a header.
    #[must_use]
    pub fn tells(&self, text: &[u8]) -> bool {
        self.spellings().iter().any(|(_, spelling)| has_in_any_case(text, spelling))
    }

    /// Whether a placeholder is there at all, before anything is copied.
    fn mentions(&self, text: &[u8]) -> bool {
        let bound = self.bound.iter().map(|bound| &bound.secret);
        let all = bound.chain(self.others.iter().map(|(secret, _)| secret));
        all.map(|secret| secret.placeholder.as_bytes()).any(|placeholder| has(text, placeholder))
    }

    fn patterns(&self, spelled: fn(&Secret) -> Zeroizing<Vec<u8>>) -> Vec<Pattern> {
        self.bound.iter().map(|bound| bound.replaced(spelled)).chain(self.others.iter().map(refused)).collect()
    }

    /// Values, and what becomes of them in the response.
    fn scrubbed(&self) -> Vec<Pattern> {
        let pattern = |(at, find): &(usize, Zeroizing<Vec<u8>>)| {
            let placeholder = self.bound[*at].secret.placeholder.clone().into_bytes();
            Pattern { find: find.clone(), found: Found::Replace(placeholder.into(), Arc::default()) }
        };
        self.spellings().iter().map(pattern).collect()
    }

    /// Values in all spellings that they are sent in.
    fn spellings(&self) -> &[(usize, Zeroizing<Vec<u8>>)] {
        self.spellings.get_or_init(|| {
            let all = self.bound.iter().enumerate();
            let values = all.flat_map(|(at, bound)| bound.secret.values().map(move |value| (at, value)));
            let long = values.filter(|(_, value)| value.0.len() >= SCRUBBED_FROM);
            let spelled = long.flat_map(|(at, value)| value.spellings().map(move |spelling| (at, spelling)));
            spelled.collect()
        })
    }
}

impl Bound {
    fn replaced(&self, spelled: fn(&Secret) -> Zeroizing<Vec<u8>>) -> Pattern {
        let find = self.secret.placeholder.clone().into_bytes().into();
        Pattern { find, found: Found::Replace(spelled(&self.secret), Arc::clone(&self.used)) }
    }
}

impl Secret {
    fn as_it_is(&self) -> Zeroizing<Vec<u8>> {
        self.value.bytes()
    }

    fn percent_encoded(&self) -> Zeroizing<Vec<u8>> {
        self.value.percent_encoded()
    }
}

impl Value {
    /// As it is, as in a query, and as within the credentials of `Basic`.
    fn spellings(&self) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
        let (plain, encoded) = (self.bytes(), self.percent_encoded());
        let encoded = (plain != encoded).then_some(encoded);
        [Some(plain), encoded].into_iter().flatten().chain((0..3).map(|before| self.within_base64(before)))
    }

    /// What is the same in the base64 of every text in which so many bytes, or three more each time, stand before the value: the digits
    /// that have bits of the value and of nothing else (RFC 4648, section 4).
    fn within_base64(&self, before: usize) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::with_capacity(before + self.0.len()));
        text.resize(before, 0);
        text.extend_from_slice(&self.0);
        let digits = Zeroizing::new(BASE64.encode(&*text));
        let (first, end) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        Zeroizing::new(digits.as_bytes()[first..end].to_vec())
    }

    fn percent_encoded(&self) -> Zeroizing<Vec<u8>> {
        // Three times is the most, so that it is never moved.
        let mut encoded = Zeroizing::new(Vec::with_capacity(self.0.len() * 3));
        for &byte in self.0.iter() {
            if percent::is_unreserved(byte) {
                encoded.push(byte);
            } else {
                encoded.extend(percent::escape(byte));
            }
        }
        encoded
    }
}

fn refused((secret, misdirected): &(Secret, Misdirected)) -> Pattern {
    Pattern { find: secret.placeholder.clone().into_bytes().into(), found: Found::Refuse(misdirected.clone()) }
}

fn has(text: &[u8], placeholder: &[u8]) -> bool {
    text.windows(placeholder.len()).any(|window| window == placeholder)
}

fn has_in_any_case(text: &[u8], other: &[u8]) -> bool {
    text.windows(other.len()).any(|part| part.eq_ignore_ascii_case(other))
}

/// The decoded credentials of `Basic`.
fn basic(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let credentials = scheme.eq_ignore_ascii_case(b"Basic ").then(|| rest.trim_ascii())?;
    BASE64.decode(credentials).ok().map(Zeroizing::new)
}
