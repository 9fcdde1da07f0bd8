//! Secrets in headers, and in the trailers after a body.

use http::{HeaderMap, HeaderValue};

use crate::secret::{Exchange, Misdirected};

/// Of a request: values in place of placeholders.
pub(super) fn put_into(headers: &mut HeaderMap, exchange: &Exchange) -> Result<(), Misdirected> {
    for (name, value) in headers.iter_mut() {
        exchange.unreplaced("the name of a header", name.as_str().as_bytes())?;
        if let Some(changed) = exchange.header(value.as_bytes())? {
            *value = sensitive(&changed);
        }
    }
    Ok(())
}

/// Of a response: placeholders in place of values. What has one in its name is not passed on.
pub(super) fn take_out_of(headers: &mut HeaderMap, exchange: &Exchange) {
    let telling: Vec<_> = headers.keys().filter(|name| exchange.tells(name.as_str().as_bytes())).cloned().collect();
    for name in telling {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        if let Some(changed) = exchange.scrub(value.as_bytes()) {
            *value = sensitive(&changed);
        }
    }
}

/// A value that was changed for a secret's sake. It has the bytes of a header's value, or of a secret's, and no control characters.
fn sensitive(value: &[u8]) -> HeaderValue {
    let mut value = HeaderValue::from_bytes(value).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
