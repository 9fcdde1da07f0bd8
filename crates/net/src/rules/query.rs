//! Queries: keys are compared decoded, and what is not edited stays as it was written.

use super::path::escaped;
use crate::percent;

/// All values of a key, decoded.
pub(super) fn values(query: &str, key: &str) -> impl Iterator<Item = String> {
    pairs(query).filter(move |pair| key_of(pair) == key).map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        String::from_utf8_lossy(&decode(value)).into_owned()
    })
}

/// The query with this value for a key instead of all that it had: where the first was, or at the end.
pub(super) fn set(query: &str, key: &str, value: &str) -> String {
    let own = format!("{}={}", encode(key), encode(value));
    let mut done = false;
    let mut edited: Vec<&str> = Vec::new();
    for pair in pairs(query) {
        if key_of(pair) != key {
            edited.push(pair);
        } else if !done {
            edited.push(&own);
            done = true;
        }
    }
    if !done {
        edited.push(&own);
    }
    edited.join("&")
}

/// The query without a key.
pub(super) fn delete(query: &str, key: &str) -> String {
    pairs(query).filter(|pair| key_of(pair) != key).collect::<Vec<_>>().join("&")
}

fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|pair| !pair.is_empty())
}

fn key_of(pair: &str) -> String {
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    String::from_utf8_lossy(&decode(key)).into_owned()
}

/// As in forms (URL Standard, application/x-www-form-urlencoded).
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, escaped(&bytes[at..])) {
            (_, Some(decoded)) => {
                plain.push(decoded);
                at += 2;
            }
            (b'+', None) => plain.push(b' '),
            (byte, None) => plain.push(byte),
        }
        at += 1;
    }
    plain
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        percent::push(&mut encoded, byte);
        encoded
    })
}
