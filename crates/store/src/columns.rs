//! How values are written in columns: timestamps, names and JSON as text.
//!
//! Called by every module with a table. Invariant: a text that does not parse is an error that says which column it
//! was in, never a default.

use std::{error::Error, fmt, path::Path, str::FromStr};

use jiff::Timestamp;
use rusqlite::{Row, types::Type};
use serde::{Serialize, de::DeserializeOwned};

/// The present time as it is stored: UTC, RFC 3339, nanoseconds with trailing zeros trimmed.
pub(crate) fn now() -> String {
    Timestamp::now().to_string()
}

/// A column whose text is parsed.
pub(crate) fn parse<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| unreadable(row, column, error))
}

/// A column whose text or bytes are JSON.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_slice(row.get_ref(column)?.as_bytes()?).map_err(|error| unreadable(row, column, error))
}

/// The JSON text of a value.
pub(crate) fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// The text of a path. One that is not UTF-8 cannot be stored.
pub(crate) fn path_text(path: &Path) -> rusqlite::Result<&str> {
    path.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(path.to_owned()))
}

#[derive(Debug)]
struct Unreadable {
    column: String,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.cause)
    }
}

impl Error for Unreadable {}

fn unreadable(row: &Row<'_>, column: &str, cause: impl Error + Send + Sync + 'static) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    let unreadable = Unreadable { column: column.to_owned(), cause: Box::new(cause) };
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc_with_trailing_zeros_trimmed() {
        let shown = |nanoseconds| Timestamp::new(1_700_000_000, nanoseconds).unwrap().to_string();
        assert_eq!(shown(0), "2023-11-14T22:13:20Z");
        assert_eq!(shown(120_000_000), "2023-11-14T22:13:20.12Z");
        assert_eq!(shown(1), "2023-11-14T22:13:20.000000001Z");
        assert!(now().parse::<Timestamp>().is_ok());
    }
}
