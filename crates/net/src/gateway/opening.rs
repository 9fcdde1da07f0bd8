//! What a guest opens a connection with, as far as that decides who carries it: TLS, HTTP, or something else.
//!
//! Fails closed: what cannot be told is not let through unseen. Whatever a server could take for the beginning of HTTP counts,
//! in any version or none, with any method, after white space and empty lines (RFC 9112, sections 2.2 and 3). It is a guess all the
//! same: where rules are about requests, nobody relies on it ([`Guard`](crate::guard::Guard)).

/// Bytes that are looked at. A request line that is longer counts as one.
pub(super) const MAX_OPENING: usize = 8192;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// TLS or HTTP.
    Inspectable,
    /// Neither.
    Other,
    /// More has to be seen.
    Unclear,
}

impl Opening {
    /// Of what was read so far; `ended` if nothing follows.
    pub(super) fn of(read: &[u8], ended: bool) -> Self {
        match tls(read).max(http(read, ended)) {
            Self::Unclear if ended => Self::Other,
            Self::Unclear if read.len() >= MAX_OPENING => Self::Inspectable,
            opening => opening,
        }
    }

    /// Of two guesses, that which has seen something.
    fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Inspectable, _) | (_, Self::Inspectable) => Self::Inspectable,
            (Self::Unclear, _) | (_, Self::Unclear) => Self::Unclear,
            (Self::Other, Self::Other) => Self::Other,
        }
    }
}

/// A record of the handshake (RFC 8446, section 5.1), or a hello in the format of SSL 2 (RFC 5246, appendix E.2), which
/// servers still take.
fn tls(read: &[u8]) -> Opening {
    match read {
        [0x16, 0x03, ..] | [0x80..=0xff, _, 0x01, 0x03, ..] => Opening::Inspectable,
        [] | [0x16 | 0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 0x01] => Opening::Unclear,
        _ => Opening::Other,
    }
}

/// The line of a request. Without a version it is one, too, where the target is that of a URL, or with the one method that HTTP/0.9
/// has (RFC 1945, section 5). What stands between its words, and before them, is white space in the eyes of any server.
fn http(read: &[u8], ended: bool) -> Opening {
    let start = read.iter().position(|byte| *byte != b'\n' && !is_blank(*byte)).unwrap_or(read.len());
    let rest = &read[start..];
    let line_end = rest.iter().position(|byte| *byte == b'\n').or(ended.then_some(rest.len()));
    let line = &rest[..line_end.unwrap_or(rest.len())];
    let Some(method_end) = line.iter().position(|byte| !is_token(*byte)) else {
        return if line_end.is_some() { Opening::Other } else { Opening::Unclear };
    };
    if method_end == 0 || !is_blank(line[method_end]) {
        return Opening::Other;
    }
    let (method, rest) = line.split_at(method_end);
    let mut words = rest.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty()).peekable();
    let is_target = |word: &&[u8]| word.starts_with(b"/") || begins(word, b"http://") || begins(word, b"https://");
    let is_request =
        method == b"GET" || words.peek().is_some_and(is_target) || words.any(|word| begins(word, b"HTTP/"));
    match line_end {
        _ if is_request => Opening::Inspectable,
        Some(_) => Opening::Other,
        None => Opening::Unclear,
    }
}

fn begins(word: &[u8], with: &[u8]) -> bool {
    word.get(..with.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(with))
}

/// What lenient servers take for white space within a line: that of RFC 9112, section 3, and of whoever reads it as text.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_guest_opens_with() {
        let is = |read: &[u8]| Opening::of(read, false);
        for read in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"\x16\x03",
            b"\x80\x2e\x01\x03\x01",
            b"GET / HTTP/1.1\r\n",
            b"\r\n\n\rGET / HTTP/1.1\r\n",
            b"get /a b HTTP/1.0\n",
            b"BREW * http/1.1 \r\n",
            b"CONNECT x.com:443 HTTP/1.1\n",
            b"PRI * HTTP/2.0\r\n\r\nSM",
            b"GET /a\r\n",
            b"GET a\r\n",
            b"GET ",
            b"POST /a",
            b" GET /a HTTP/1.1\r\n",
            b"\r\n\t \r\nPOST a HTTP/1.1\r\n",
            b"POST\x0b/a\x0bHTTP/1.1\r\n",
            b"POST\xa0a\x1fHTTP/1.1\r\n",
            b"POST a HTTP/1.1 b\r\n",
            b"POST Http://x.com",
            &[&[b'a'; 100][..], b" * HTTP/1.1\n"].concat(),
        ] {
            assert_eq!(is(read), Opening::Inspectable, "{}", read.escape_ascii());
        }
        for read in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"EHLO x.com\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"get key\r\n",
            b"NICK me\r\nUSER me 0 * :HTTP/\r\n",
            b"DESCRIBE rtsp://x.com/a RTSP/1.0\r\n",
            b"\x10\x0c\0\x04MQTT\x04",
            b"\0\0\0\x08\x04\xd2\x16\x2f", // PostgreSQL's request for TLS
            b"\0\x05\x01\x00",
            b"\x16\x04",
            b"\x80\0\x02",
            b"{\"jsonrpc\": \"HTTP/\"}\n",
        ] {
            assert_eq!(is(read), Opening::Other, "{}", read.escape_ascii());
        }
        for read in
            [&b""[..], b"\x16", b"\x80", b"\x80\x2e\x01", b"\r\n", b"G", b"GET", b" \x0b", b"POST a HTTP", b"SSH-2.0"]
        {
            assert_eq!(is(read), Opening::Unclear, "{}", read.escape_ascii());
        }
        assert_eq!(Opening::of(b"GET / HTTP/1.1", true), Opening::Inspectable);
        assert_eq!(Opening::of(b"x", true), Opening::Other);
        assert_eq!(is(&[b"GET /", &[b'a'; MAX_OPENING][..]].concat()), Opening::Inspectable);
    }

    proptest! {
        /// However a guest cuts what it sends, it is never taken for something else on the way.
        #[test]
        fn what_was_seen_stays_seen(
            read in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                "[\r\n \x0b]{0,3}([A-Za-z]{1,9}|GET)[ \t\x0b][ -~]{0,20}( HTTP/1.1)?\r\n.{0,9}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..9).prop_map(|rest| [&[0x16, 3][..], &rest].concat()),
            ],
            cut in 0_usize..40,
        ) {
            let part = Opening::of(&read[..cut.min(read.len())], false);
            prop_assert!(part == Opening::Unclear || part == Opening::of(&read, false));
        }
    }
}
