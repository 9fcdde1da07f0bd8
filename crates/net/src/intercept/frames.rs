//! The frames of a WebSocket on their way to the guest (RFC 6455, section 5.2), as far as looking through them for secrets needs:
//! where one ends, so that nothing is kept back beyond its end.

use zeroize::Zeroizing;

use crate::secret::{Misdirected, Replacer};

/// Flags, length, the longest form of the length, and a key.
const MAX_HEADER: usize = 2 + 8 + 4;

/// Frames that come in pieces.
pub(super) struct Frames {
    /// Replaces by as much as there was.
    masker: Replacer,
    header: Vec<u8>,
    /// Of the payload.
    left: u64,
}

impl Frames {
    pub(super) fn new(masker: Replacer) -> Self {
        Self { masker, header: Vec::with_capacity(MAX_HEADER), left: 0 }
    }

    /// What can be passed on after this piece.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        let mut out = Zeroizing::new(Vec::with_capacity(piece.len() + MAX_HEADER));
        while !piece.is_empty() {
            if self.left == 0 {
                self.header.push(piece[0]);
                piece = &piece[1..];
                if let Some(length) = payload(&self.header) {
                    out.append(&mut self.header);
                    self.left = length;
                }
                continue;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            out.extend_from_slice(&self.masker.feed(&piece[..here])?);
            piece = &piece[here..];
            self.left -= here as u64;
            if self.left == 0 {
                out.extend_from_slice(&self.masker.finish()?);
            }
        }
        Ok(out)
    }

    /// What there is of a frame that breaks off.
    pub(super) fn finish(&mut self) -> Result<Zeroizing<Vec<u8>>, Misdirected> {
        let mut out = Zeroizing::new(std::mem::take(&mut self.header));
        out.extend_from_slice(&self.masker.finish()?);
        Ok(out)
    }
}

/// The length of the payload, once the header is whole.
fn payload(header: &[u8]) -> Option<u64> {
    let [_, short, long @ ..] = header else { return None };
    let key = if short & 0x80 == 0 { 0 } else { 4 };
    let (length, bytes) = match short & 0x7f {
        126 => (2, long.get(..2)?),
        127 => (8, long.get(..8)?),
        short => return (long.len() == key).then_some(u64::from(short)),
    };
    (long.len() == length + key).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{Options, Secret, Secrets, Value};

    fn frames() -> Frames {
        let value = Value::new(b"value-of-it".to_vec()).ok().unwrap();
        let hosts = vec!["x.com".parse().unwrap()];
        let secret = Secret::new("A".into(), value, None, hosts, Options::default()).ok().unwrap();
        let secrets = Secrets::new(vec![secret]).ok().unwrap();
        Frames::new(secrets.towards(&"x.com".parse().unwrap(), true).masker().unwrap())
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap();
        let header = match u8::try_from(length) {
            Ok(short) if short < 126 => vec![0x81, short],
            _ => [&[0x81, 126][..], &length.to_be_bytes()].concat(),
        };
        [header, payload.to_vec()].concat()
    }

    #[test]
    fn values_become_asterisks_however_they_are_cut() {
        let long = [&[b'x'; 300][..], b"value-of-it"].concat();
        let sent = [frame(b"a value-of-it, value-of"), frame(b""), frame(&long), frame(b"v")].concat();
        let masked = [&[b'x'; 300][..], b"***********"].concat();
        let expected = [frame(b"a ***********, value-of"), frame(b""), frame(&masked), frame(b"v")].concat();
        for length in [1, 2, 3, 7, sent.len()] {
            let mut frames = frames();
            let out: Vec<u8> = sent.chunks(length).flat_map(|piece| frames.feed(piece).unwrap().to_vec()).collect();
            assert_eq!(out, expected, "{length}");
        }
    }

    #[test]
    fn nothing_is_kept_back_beyond_the_end_of_a_frame() {
        let whole = frame(b"ends like the value");
        assert_eq!(**frames().feed(&whole).unwrap(), whole);
        let huge = [0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0, b'v', b'x'];
        let mut frames = frames();
        assert_eq!(**frames.feed(&huge).unwrap(), huge[..10]);
        assert_eq!(**frames.finish().unwrap(), huge[10..]);
    }
}
