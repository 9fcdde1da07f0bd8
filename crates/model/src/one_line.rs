//! Errors, and what others say, as people read them.

use std::{error::Error, fmt::Write};

/// An error and its causes in one line: "what: why: why".
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let why = cause.to_string();
        // Some libraries print their cause themselves.
        if !line.ends_with(&why) {
            line = format!("{line}: {why}");
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

/// The beginning of a line that somebody else may have chosen, without what a terminal would obey.
#[must_use]
pub fn printable(line: &str, most_chars: usize) -> String {
    line.chars().filter(|c| !c.is_control() && !is_invisible(*c)).take(most_chars).collect()
}

/// Lines that somebody else may have chosen, with escapes in place of what a terminal would obey. Carriage returns are left out, as in
/// ends of lines of consoles.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    escaped(text.chars().filter(|c| *c != '\r'), &['\n', '\t'])
}

/// The same JSON, in which nothing is left that a terminal would obey: it is all written as escapes, for outside of strings there is
/// none of it in a line.
#[must_use]
pub fn printable_json(line: &str) -> String {
    escaped(line.chars(), &[])
}

fn escaped(chars: impl Iterator<Item = char>, kept: &[char]) -> String {
    let mut printable = String::new();
    for c in chars {
        if (c.is_control() || is_invisible(c)) && !kept.contains(&c) {
            // None of them needs more digits, and a String takes everything.
            let _ = write!(printable, "\\u{:04x}", u32::from(c));
        } else {
            printable.push(c);
        }
    }
    printable
}

/// Characters that show nothing themselves and reorder, hide or break what is around them (Unicode: general categories Cf,
/// Zl and Zp, as far as text in use has them).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    enum Failure {
        #[error("no\nspace")]
        Cause,
        #[error("write")]
        Effect(#[source] Box<Failure>),
        #[error("save: {0}")]
        Telling(#[source] Box<Failure>),
    }

    #[test]
    fn every_cause_is_told_once_and_in_one_line() {
        let told = Failure::Telling(Box::new(Failure::Effect(Box::new(Failure::Cause))));
        assert_eq!(one_line(&told), "save: write: no space");
    }

    #[test]
    fn json_means_the_same_and_moves_no_cursor() {
        let foreign = "{\"a\":\"\u{7f}é\u{9b}2J\u{202e}\"}";
        let printable = printable_json(foreign);
        assert_eq!(printable, r#"{"a":"\u007fé\u009b2J\u202e"}"#);
    }

    #[test]
    fn foreign_lines_stay_lines_and_move_no_cursor() {
        assert_eq!(printable_lines("a\tb\r\n\x1b[2Jé\u{9b}\u{202e}\n"), "a\tb\n\\u001b[2Jé\\u009b\\u202e\n");
    }

    #[test]
    fn a_foreign_line_moves_no_cursor_and_fits() {
        assert_eq!(printable("\x1b[2Jzwölf\r\n Boxkämpfer", 9), "[2Jzwölf ");
        assert_eq!(printable("exit\u{202e}0 edoc\u{2066}\u{200b}\u{feff}", 99), "exit0 edoc");
    }
}
