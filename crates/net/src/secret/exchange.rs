//! One request and its response, as far as secrets go: what is replaced where, and what is refused.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use super::{
    Misdirected, Replacer, SCRUBBED_FROM, Secret,
    stream::{Found, Pattern, whole},
};

/// Clients write credentials with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a text became; `None` if it stays as it is.
pub type Changed = Result<Option<Zeroizing<Vec<u8>>>, Misdirected>;

/// What becomes of one request and its response.
pub struct Exchange {
    bound: Vec<Secret>,
    others: Vec<Secret>,
}

impl Exchange {
    pub(super) fn new(bound: Vec<Secret>, others: Vec<Secret>) -> Self {
        Self { bound, others }
    }

    /// The value of a header or a trailer of the request. Credentials of `Basic` (RFC 7617) are looked into.
    ///
    /// # Errors
    /// If it has the placeholder of a secret that is not for this host.
    pub fn header(&self, value: &[u8]) -> Changed {
        if let Some(credentials) = basic(value)
            && let Some(changed) = whole(self.patterns(Secret::as_it_is), &credentials)?
        {
            let encoded = Zeroizing::new(BASE64.encode(&*changed));
            return Ok(Some(Zeroizing::new([b"Basic ", encoded.as_bytes()].concat())));
        }
        whole(self.patterns(Secret::as_it_is), value)
    }

    /// The raw query of the request: values are percent-encoded (RFC 3986, section 2.1).
    ///
    /// # Errors
    /// As [`Exchange::header`].
    pub fn query(&self, query: &[u8]) -> Changed {
        whole(self.patterns(Secret::percent_encoded), query)
    }

    /// The path of the request, where nothing is replaced.
    ///
    /// # Errors
    /// As [`Exchange::header`].
    pub fn path(&self, path: &[u8]) -> Result<(), Misdirected> {
        whole(self.others.iter().map(refused).collect(), path).map(drop)
    }

    /// The request's body; `None` if no secret asked for that. With one, the length may change.
    #[must_use]
    pub fn body(&self) -> Option<Replacer> {
        let replaced = self.bound.iter().filter(|secret| secret.options.body).map(|secret| Pattern {
            find: secret.placeholder.clone().into_bytes().into(),
            found: Found::Replace(secret.as_it_is()),
        });
        Replacer::new(replaced.chain(self.others.iter().filter(|secret| secret.options.body).map(refused)).collect())
    }

    /// Whether the response can have values in it: then it is to be asked for without compression.
    #[must_use]
    pub fn is_scrubbed(&self) -> bool {
        !self.scrubbed().is_empty()
    }

    /// The response's body without values; `None` if it is passed on as it comes.
    #[must_use]
    pub fn scrubber(&self) -> Option<Replacer> {
        Replacer::new(self.scrubbed())
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

    fn patterns(&self, spelled: fn(&Secret) -> Zeroizing<Vec<u8>>) -> Vec<Pattern> {
        let replaced = self.bound.iter().map(|secret| Pattern {
            find: secret.placeholder.clone().into_bytes().into(),
            found: Found::Replace(spelled(secret)),
        });
        replaced.chain(self.others.iter().map(refused)).collect()
    }

    /// Values in the two spellings that they are sent in.
    fn scrubbed(&self) -> Vec<Pattern> {
        let long = self.bound.iter().filter(|secret| secret.value.0.len() >= SCRUBBED_FROM);
        let spellings = long.flat_map(|secret| {
            let (plain, encoded) = (secret.as_it_is(), secret.percent_encoded());
            let encoded = (plain != encoded).then_some((secret, encoded));
            [Some((secret, plain)), encoded].into_iter().flatten()
        });
        let replaced = |secret: &Secret| Found::Replace(secret.placeholder.clone().into_bytes().into());
        spellings.map(|(secret, find)| Pattern { find, found: replaced(secret) }).collect()
    }
}

impl Secret {
    fn as_it_is(&self) -> Zeroizing<Vec<u8>> {
        self.value.bytes()
    }

    fn percent_encoded(&self) -> Zeroizing<Vec<u8>> {
        // Three times is the most, so that it is never moved.
        let mut encoded = Zeroizing::new(Vec::with_capacity(self.value.0.len() * 3));
        for &byte in self.value.0.iter() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(byte);
            } else {
                let digits = b"0123456789ABCDEF";
                encoded.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
            }
        }
        encoded
    }
}

fn refused(secret: &Secret) -> Pattern {
    Pattern { find: secret.placeholder.clone().into_bytes().into(), found: Found::Refuse(secret.name.clone()) }
}

/// The decoded credentials of `Basic`.
fn basic(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let credentials = scheme.eq_ignore_ascii_case(b"Basic ").then(|| rest.trim_ascii())?;
    BASE64.decode(credentials).ok().map(Zeroizing::new)
}
