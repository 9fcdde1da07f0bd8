//! `matchlock log` on a terminal: what a guest has written, without what the terminal would obey.

use matchlock_model::printable_lines;

/// Makes text of the blocks in which a file is read.
#[derive(Default)]
pub(crate) struct Harmless {
    /// A character whose rest has not come.
    begun: Vec<u8>,
}

impl Harmless {
    /// What becomes of this block.
    pub(crate) fn feed(&mut self, block: &[u8]) -> String {
        let bytes = [&self.begun, block].concat();
        let (whole, begun) = bytes.split_at(bytes.len() - unfinished(&bytes));
        self.begun = begun.to_vec();
        printable_lines(&String::from_utf8_lossy(whole))
    }
}

/// Bytes at the end that are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let is_begun = str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
    if is_begun { last.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole_wherever_a_block_ends() {
        let text = "\x1b]0;title\x07zw\u{f6}lf \u{1f980}\u{9b}2J\u{202e}\r\n\tend \u{feff}\n".as_bytes();
        let written = [text, b"\xff\xc3\n"].concat();
        let expected = "\\u001b]0;title\\u0007zw\u{f6}lf \u{1f980}\\u009b2J\\u202e\n\tend \\ufeff\n\u{fffd}\u{fffd}\n";
        for size in 1..=written.len() {
            let mut harmless = Harmless::default();
            let shown: String = written.chunks(size).map(|block| harmless.feed(block)).collect();
            assert_eq!(shown, expected, "in blocks of {size}");
        }
    }
}
