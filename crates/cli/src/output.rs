//! Everything the program prints, other than guest output.

use std::io::{self, IsTerminal, Write};

use tabwriter::TabWriter;
use tracing_subscriber::filter::LevelFilter;

use crate::{args::LogLevel, error::CliError};

/// Print an error on stderr.
pub(crate) fn error(error: &CliError) {
    note(&error.to_string());
}

/// Print a line for the user on stderr. A stderr that takes none is no reason to fail.
pub(crate) fn note(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Print a line of a command's result on stdout.
pub(crate) fn line(line: &str) -> Result<(), CliError> {
    text(&format!("{line}\n"))
}

/// Print a command's result on stdout.
pub(crate) fn text(text: &str) -> Result<(), CliError> {
    bytes(text.as_bytes())
}

/// Write raw bytes to stdout.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::io("write to standard output"))
}

/// Print a table: columns two spaces apart, the last one unpadded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    let mut writer = TabWriter::new(Vec::new()).padding(2).minwidth(0);
    let mut fill = || -> io::Result<()> {
        writeln!(writer, "{}", header.join("\t"))?;
        rows.iter().try_for_each(|row| writeln!(writer, "{}", row.join("\t")))?;
        writer.flush()
    };
    fill().map_err(CliError::io("format the table"))?;
    let table = writer.into_inner().map_err(|_| CliError::failure("format the table"))?;
    bytes(&table)
}

/// Print a value as indented JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::during("format as JSON"))?;
    line(&text)
}

/// Send diagnostics to stderr, from `level` up (warnings where none is given).
pub(crate) fn start_log(level: Option<LogLevel>) {
    let filter = match level.unwrap_or(LogLevel::Warn) {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}
