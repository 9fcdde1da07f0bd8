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

/// Print a line on stdout that says what was done: one that nobody gets is an error.
pub(crate) fn line(line: &str) -> Result<(), CliError> {
    bytes(format!("{line}\n").as_bytes()).map_err(unwritten())
}

/// Write raw bytes to stdout.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Print something to be looked at on stdout. Who has seen enough of it may stop reading, as `head` does.
pub(crate) fn text(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    match bytes(text.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(unwritten()),
    }
}

/// For `map_err`: stdout took no more.
pub(crate) fn unwritten() -> impl FnOnce(io::Error) -> CliError {
    CliError::io("write to standard output")
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
    text(table)
}

/// Print a value as indented JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(value).map_err(CliError::during("format as JSON"))?;
    text(format!("{json}\n"))
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
