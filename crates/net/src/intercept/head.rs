//! Heads of messages: for whom a request is, and what of a head is for the next hop only.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    request::Parts,
    uri::Authority,
};

use super::page::Refusal;
use crate::{MAX_TOLD, policy::Host};

/// Headers that concern one hop, whether `Connection` names them or not (RFC 9110, section 7.6.1; RFC 7540, section 3.2.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// For whom the request is: everything in it that says so has to say the same, and with the port of the connection if with any.
/// Also as the guest has written it.
pub(super) fn host(request: &Parts, port: u16) -> Result<(Host, Authority), Refusal> {
    if request.method == Method::CONNECT {
        return Err(Refusal::malformed("CONNECT: no proxy is needed here, connect to the host itself"));
    }
    let target = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut headers = request.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Refusal::malformed("there is more than one Host header"));
    }
    let mut said = target.into_iter().chain(header);
    let first = said.next().ok_or_else(|| Refusal::malformed("there is no Host header"))?;
    let host = parse(first, port)?;
    let written = Authority::try_from(first).map_err(|_| Refusal::malformed("its host is not one of a URL"))?;
    match said.next() {
        Some(second) if parse(second, port)? != host => {
            Err(Refusal::malformed("its target and its Host header are for different hosts"))
        }
        _ => Ok((host, written)),
    }
}

fn parse(text: &[u8], port: u16) -> Result<Host, Refusal> {
    let refused = |why: String| {
        // Quoted, with what cannot be seen as escapes: that may be all that is wrong with it.
        let told: String = String::from_utf8_lossy(text).chars().take(MAX_TOLD).collect();
        Refusal::malformed(format!("its host {told:?} {why}"))
    };
    let text = str::from_utf8(text).map_err(|_| refused("is not a host".to_owned()))?;
    let (host, own) = Host::with_port(text).map_err(|e| refused(format!("is not a host: {e}")))?;
    match own {
        Some(own) if own != port => Err(refused(format!("has another port than the connection, {port}"))),
        _ => Ok(host),
    }
}

/// Whether a body is framed in a way that all understand alike. What hyper lets through otherwise is taken off by nobody.
pub(super) fn is_framed_plainly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let plain = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    plain && codings.next().is_none()
}

/// Whether a body has lengths of parts within it, such as gRPC's messages: it must not become longer or shorter.
pub(super) fn has_lengths(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase()).unwrap_or_default();
    [&b"application/grpc"[..], b"application/connect+"].iter().any(|messages| kind.starts_with(messages))
}

/// Whether a request or a response is for a WebSocket and nothing else: whatever else a connection can become, HTTP/2 first of
/// all, would be a way past everything here.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let websocket = upgrades.next().is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    websocket && upgrades.next().is_none() && tokens(headers, &CONNECTION).any(|token| token == "upgrade")
}

/// Take out what is for one hop only; the order of the others stays.
pub(super) fn strip(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    // No reason to drop what the request was judged by, or its framing.
    named.extend(tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()));
    named.retain(|name| *name != HOST && *name != CONTENT_LENGTH);
    let trailers = tokens(headers, &TE).any(|token| token == "trailers");
    let dropped = |name: &HeaderName| HOP_BY_HOP.contains(name) || named.contains(name);
    if !headers.keys().any(dropped) {
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut last = None;
    for (name, value) in headers.drain() {
        let name = name.or(last).unwrap_or(CONNECTION);
        if !dropped(&name) {
            kept.append(name.clone(), value);
        } else if name == TE && trailers {
            kept.insert(TE, HeaderValue::from_static("trailers"));
        }
        last = Some(name);
    }
    *headers = kept;
}

fn tokens(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

/// The target in the form for a connection to the server itself: path and query.
pub(super) fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn whoever_is_named_is_the_same() {
        let host = |target: &str, headers: &[(&str, &str)]| {
            host(&parts(target, headers), 443).map(|(host, _)| host.to_string())
        };
        for (target, headers) in [
            ("/", &[("host", "API.x.com")][..]),
            ("/", &[("host", "api.x.com.:443")]),
            ("https://api.x.com/", &[]),
            ("http://api.x.com/", &[("host", "api.x.com:443")]),
        ] {
            assert_eq!(host(target, headers).unwrap(), "api.x.com", "{target} {headers:?}");
        }
        for (target, headers) in [
            ("/", &[][..]),
            ("/", &[("host", "")]),
            ("/", &[("host", "api.x.com"), ("host", "api.x.com")]),
            ("/", &[("host", "api.x.com:80")]),
            ("/", &[("host", "api.x.com:+443")]),
            ("/", &[("host", "api.x.com, evil.com")]),
            ("/", &[("host", "me@api.x.com")]),
            ("/", &[("host", "api.x.com/evil.com")]),
            ("https://me@api.x.com/", &[]),
            ("https://api.x.com/", &[("host", "evil.com")]),
            ("https://evil.com/", &[("host", "api.x.com")]),
        ] {
            assert!(host(target, headers).is_err(), "{target} {headers:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_host_is_seen_where_it_cannot_be() {
        let mut request = parts("/", &[]);
        let host_is = |request: &mut Parts, text: &[u8]| {
            request.headers.insert(HOST, HeaderValue::from_bytes(text).unwrap());
            let refused = host(request, 443).unwrap_err();
            refused.end.bounded().to_string()
        };
        let told = host_is(&mut request, "good\u{200b}.test".as_bytes());
        assert!(told.starts_with(r#"blocked: its host "good\u{200b}.test" is not a host: "#), "{told}");
        let told = host_is(&mut request, b"good\t\xe2\x80.test");
        assert!(told.starts_with("blocked: its host \"good\\t\u{fffd}.test\" is not a host"), "{told}");
        let told = host_is(&mut request, &[b'x'; 9000]);
        assert!(told.chars().count() < 2 * MAX_TOLD && told.contains("is not a host: "), "{told}");
    }

    #[test]
    fn what_is_for_one_hop_goes_no_further_and_the_rest_stays_in_order() {
        let mut headers = parts(
            "/",
            &[
                ("host", "x.com"),
                ("connection", "close, X-Own, Host, Content-Length"),
                ("a", "1"),
                ("x-own", "2"),
                ("te", "gzip, trailers"),
                ("content-length", "3"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
                ("a", "2"),
                ("proxy-authorization", "Basic eA=="),
                ("b", "3"),
            ],
        )
        .headers;
        strip(&mut headers);
        let left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(left, ["host: x.com", "a: 1", "a: 2", "te: trailers", "content-length: 3", "b: 3"]);
    }

    #[test]
    fn only_websockets_are_upgrades() {
        let is = |upgrade: &str, connection: &str| {
            is_websocket(&parts("/", &[("upgrade", upgrade), ("connection", connection)]).headers)
        };
        assert!(is("WebSocket", "keep-alive, Upgrade"));
        for (upgrade, connection) in
            [("h2c", "upgrade"), ("websocket, h2c", "upgrade"), ("websocket", "close"), ("", "upgrade")]
        {
            assert!(!is(upgrade, connection), "{upgrade} {connection}");
        }
        let plainly = |codings: &[(&str, &str)]| is_framed_plainly(&parts("/", codings).headers);
        assert!(plainly(&[]) && plainly(&[("transfer-encoding", "Chunked")]));
        assert!(!plainly(&[("transfer-encoding", "gzip, chunked")]));
        assert!(!plainly(&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]));
    }
}
