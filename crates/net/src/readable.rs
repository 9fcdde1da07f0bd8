//! Responses that are to be looked through, for texts that rules replace ([`rules`](crate::rules)) and for values of secrets
//! ([`intercept`](crate::intercept)): how they are asked for, and what of them cannot be read all the same.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, IF_RANGE, RANGE},
};

/// What a client of gRPC can read the messages of, and what they are coded with.
const GRPC: (HeaderName, HeaderName) =
    (HeaderName::from_static("grpc-accept-encoding"), HeaderName::from_static("grpc-encoding"));

/// Have the server send its body whole and as it is: texts are found neither in what is compressed, nor in a part that a guest has cut
/// so that none is in it.
pub(crate) fn ask_for(request: &mut HeaderMap) {
    request.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(messages) = request.get_mut(GRPC.0) {
        *messages = HeaderValue::from_static("identity");
    }
    request.remove(RANGE);
    request.remove(IF_RANGE);
}

/// What the body is coded with, all that any of the headers says; `None` if it is as it is.
pub(crate) fn codings(response: &HeaderMap) -> Option<String> {
    let codings = response.get_all(CONTENT_ENCODING).iter().chain(response.get_all(GRPC.1));
    let codings = codings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let codings = codings.collect::<Vec<_>>().join(", ");
    let plain = |coding: &str| matches!(coding.trim().to_ascii_lowercase().as_str(), "" | "identity");
    (!codings.split(',').all(plain)).then_some(codings)
}
