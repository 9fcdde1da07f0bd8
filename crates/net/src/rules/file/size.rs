//! Sizes with their units.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// Bytes, as people write them: `4096`, `"64kB"`, `"10 MB"`, `"1GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl Size {
    fn read(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let bytes = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()))?.1;
        number.parse::<u64>().ok()?.checked_mul(bytes).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a number of bytes (4096) or a text with its unit (\"64kB\", \"10MB\", \"1GB\": powers of 1000; \
             \"64KiB\", \"10MiB\", \"1GiB\": of 1024)",
        )
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        let refused = |_| E::invalid_value(de::Unexpected::Signed(bytes), &self);
        bytes.try_into().map(Size).map_err(refused)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        Size::read(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
