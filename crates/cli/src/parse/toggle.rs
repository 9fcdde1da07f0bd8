//! GNU-style boolean flags: `--rm`, `--rm=false`.

use clap::{Arg, ArgAction, builder::ValueParser};

/// Makes an argument a flag that may be given a boolean value.
pub(crate) trait Toggle {
    /// `--flag` is true, `--flag=BOOL` is what it says, and `default` is what it is without.
    fn toggle(self, default: bool) -> Self;
}

impl Toggle for Arg {
    fn toggle(self, default: bool) -> Self {
        self.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value(if default { "true" } else { "false" })
            .default_missing_value("true")
            .value_parser(ValueParser::new(boolean))
            .value_name("BOOL")
            .hide_default_value(true)
            .hide_possible_values(true)
    }
}

/// The words that GNU-style boolean flags take.
fn boolean(word: &str) -> Result<bool, String> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}
