//! Percent-encoding (RFC 3986, section 2.1).

/// Whether a byte is the same with and without an escape (section 2.3).
pub(crate) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The escape of a byte.
pub(crate) const fn escape(byte: u8) -> [u8; 3] {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    [b'%', DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]
}

/// Add a byte, bare if it needs no escape.
pub(crate) fn push(encoded: &mut String, byte: u8) {
    if is_unreserved(byte) {
        encoded.push(char::from(byte));
    } else {
        encoded.extend(escape(byte).map(char::from));
    }
}

/// The beginning of a path for people and logs: at most so many bytes, and all of them printable ASCII, whatever a guest has written.
pub(crate) fn told(path: &str, most: usize) -> String {
    let mut told = String::new();
    for byte in path.bytes() {
        let length = if byte.is_ascii_graphic() { 1 } else { 3 };
        if told.len() + length > most {
            break;
        }
        if byte.is_ascii_graphic() {
            told.push(char::from(byte));
        } else {
            push(&mut told, byte);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_path_is_printable_and_no_longer_than_it_may_be() {
        assert_eq!(told("/a/%20~?", 99), "/a/%20~?");
        assert_eq!(told("/\u{202e}\u{7f}\n \u{e4}", 99), "/%E2%80%AE%7F%0A%20%C3%A4");
        assert_eq!(told("/abc", 3), "/ab");
        assert_eq!(told("/\u{e4}b", 5), "/%C3");
    }
}
