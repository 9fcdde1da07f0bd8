//! Mistakes in the command line, each as one line in the wording that Matchlock's users know (GNU-style flags).

use clap::error::{ContextKind, ContextValue, ErrorKind};
use matchlock_model::ExitStatus;

use crate::{error::CliError, output};

/// Help and version go to stdout and are a success; anything else becomes a line and exit status 1.
pub(crate) fn report(error: &clap::Error) -> Result<ExitStatus, CliError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::text(error.render().to_string())?;
            Ok(ExitStatus::SUCCESS)
        }
        _ => Err(CliError::failure(line(error))),
    }
}

fn line(error: &clap::Error) -> String {
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
            let close = context(ContextKind::SuggestedSubcommand);
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
    format!("{line} (see --help)")
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

    use crate::args::Cli;

    #[test]
    fn an_unknown_command_is_told_with_the_one_that_lacks_it() {
        let told = |words: &[&str]| super::line(&Cli::try_parse_from(words).unwrap_err());
        assert_eq!(told(&["/usr/bin/ml", "bogus"]), r#"unknown command "bogus" for "matchlock""#);
        assert_eq!(told(&["matchlock", "image", "foo"]), r#"unknown command "foo" for "matchlock image""#);
    }
}
