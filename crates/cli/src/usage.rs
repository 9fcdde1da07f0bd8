//! Mistakes in the command line, each as one line in the wording that Matchlock's users know (GNU-style flags).

use std::ffi::OsString;

use clap::{
    CommandFactory,
    error::{ContextKind, ContextValue, ErrorKind},
};
use matchlock_model::{ExitStatus, printable};

use crate::{args::Cli, error::CliError, output};

/// Characters that are shown of a word.
const MAX_WORD: usize = 100;

/// Help and version go to stdout and are a success; anything else, in what was typed, becomes a line and exit status 1.
pub(crate) fn report(error: &clap::Error, words: impl IntoIterator<Item = OsString>) -> Result<ExitStatus, CliError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::text(error.render().to_string())?;
            Ok(ExitStatus::SUCCESS)
        }
        _ => Err(CliError::failure(line(error, words))),
    }
}

fn line(error: &clap::Error, words: impl IntoIterator<Item = OsString>) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(list)) => list.join(", "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    // clap names a flag together with its value: `--memory <MIB>`.
    let flag = argument.split([' ', '[', '=']).next().unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => format!("unknown flag: {flag}"),
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            format!("unknown shorthand flag: '{}' in {flag}", flag.trim_start_matches('-'))
        }
        ErrorKind::UnknownArgument => format!("unexpected argument {argument:?}"),
        ErrorKind::InvalidSubcommand => {
            let unknown =
                format!("unknown command {:?} for {:?}", context(ContextKind::InvalidSubcommand), parent(error));
            let close = closest(&context(ContextKind::InvalidSubcommand), &parent(error)).join(" or ");
            return if close.is_empty() { unknown } else { format!("{unknown} (did you mean {close}?)") };
        }
        ErrorKind::MissingRequiredArgument if argument.starts_with("--") => {
            let name = flag.trim_start_matches('-');
            format!("required flag(s) {name:?} not set")
        }
        ErrorKind::MissingRequiredArgument => format!("{argument} is required"),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            format!("flag needs an argument: {flag}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(ContextKind::InvalidValue);
            let why = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let choices = context(ContextKind::ValidValue);
            let choices = if choices.is_empty() { choices } else { format!(": use one of {choices}") };
            format!("invalid argument {value:?} for {flag:?}{why}{choices}")
        }
        ErrorKind::InvalidUtf8 => "arguments have to be UTF-8, other than paths and a command's own".to_owned(),
        _ => {
            let rendered = error.render().to_string();
            rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    match command_before(flag, words) {
        Some(command) if error.kind() == ErrorKind::UnknownArgument => {
            format!("{line} (for a flag of the command's own, put -- before it: -- {command} {flag} …; see --help)")
        }
        _ => format!("{line} (see --help)"),
    }
}

/// The first word of a guest's command, if it stands before this flag.
fn command_before(flag: &str, words: impl IntoIterator<Item = OsString>) -> Option<String> {
    let before = words.into_iter().take_while(|word| !word.as_encoded_bytes().starts_with(flag.as_bytes()));
    let mut matches = &Cli::command().ignore_errors(true).try_get_matches_from(before).ok()?;
    while let Some((_, verb)) = matches.subcommand() {
        matches = verb;
    }
    let command = matches.try_get_raw("command").ok()??.next()?;
    Some(printable(&command.to_string_lossy(), MAX_WORD))
}

/// Commands of `parent` that may have been meant: those that begin so, or else those that fewest mistakes lead to.
fn closest(word: &str, parent: &str) -> Vec<String> {
    let mut parent_command = &Cli::command();
    for verb in parent.split(' ').skip(1) {
        parent_command = parent_command.find_subcommand(verb).unwrap_or(parent_command);
    }
    let commands = parent_command.get_subcommands().filter(|command| !command.is_hide_set());
    let names = commands.flat_map(|command| [command.get_name()].into_iter().chain(command.get_visible_aliases()));
    let distance = |name: &str| if name.starts_with(word) { 0 } else { strsim::damerau_levenshtein(word, name) };
    let names: Vec<_> = names.map(|name| (distance(name), name)).collect();
    // One mistake in three characters.
    let nearest = names.iter().map(|(distance, _)| *distance).min().filter(|least| *least <= word.len().div_ceil(3));
    names.iter().filter(|(distance, _)| Some(*distance) == nearest).map(|(_, name)| (*name).to_owned()).collect()
}

/// The command that has no such command: `matchlock`, or `matchlock image`.
fn parent(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    // "Usage: matchlock image [OPTIONS] <COMMAND>", with the program as it was called.
    let words = usage.split_whitespace().skip(2).take_while(|word| !word.starts_with(['[', '<']));
    ["matchlock"].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn told(words: &[&str]) -> String {
        line(&Cli::try_parse_from(words).unwrap_err(), words.iter().map(OsString::from))
    }

    #[test]
    fn an_unknown_command_is_told_with_the_one_that_lacks_it() {
        assert_eq!(told(&["/usr/bin/ml", "bogus"]), r#"unknown command "bogus" for "matchlock""#);
        assert_eq!(told(&["matchlock", "image", "foo"]), r#"unknown command "foo" for "matchlock image""#);
    }

    #[test]
    fn what_may_have_been_meant_is_near() {
        let meant = |words: &str| {
            let line = told(&words.split(' ').collect::<Vec<_>>());
            line.split_once(" (did you mean ").map(|(_, close)| close.trim_end_matches("?)").to_owned())
        };
        assert_eq!(meant("matchlock rn").unwrap(), "run or rm");
        assert_eq!(meant("matchlock lst").unwrap(), "list or ls");
        assert_eq!(meant("matchlock lsit").unwrap(), "list");
        assert_eq!(meant("matchlock temp").unwrap(), "template");
        assert_eq!(meant("matchlock imgae").unwrap(), "image");
        assert_eq!(meant("matchlock image imprt").unwrap(), "import");
        assert_eq!(meant("matchlock xyz"), None);
    }

    #[test]
    fn a_flag_after_a_command_may_be_its_own() {
        let hint = "(for a flag of the command's own, put -- before it: -- ";
        for (words, expected) in [
            ("run --image x sh -c ls", format!("unknown shorthand flag: 'c' in -c {hint}sh -c …; see --help)")),
            ("run sh --login --image x", format!("unknown flag: --login {hint}sh --login …; see --help)")),
            ("exec vm-00000000 ls -l", format!("unknown shorthand flag: 'l' in -l {hint}ls -l …; see --help)")),
            ("bench start --runs 3 ls -l", format!("unknown shorthand flag: 'l' in -l {hint}ls -l …; see --help)")),
            ("run -x --image x", "unknown shorthand flag: 'x' in -x (see --help)".to_owned()),
            ("exec vm-00000000 -x ls", "unknown shorthand flag: 'x' in -x (see --help)".to_owned()),
            ("kill vm-00000000 --now", "unknown flag: --now (see --help)".to_owned()),
        ] {
            assert_eq!(told(&format!("matchlock {words}").split(' ').collect::<Vec<_>>()), expected);
        }
    }
}
