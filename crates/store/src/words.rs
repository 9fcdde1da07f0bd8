//! Enums that are words in a column.
//!
//! Used by `images` and `sandboxes`. Invariant: a word that the enum does not have is an error, never a default.

use thiserror::Error;

/// A word that a column cannot hold.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown word {0:?}")]
pub struct UnknownWord(pub(crate) String);

/// Defines an enum whose variants are the words of a column.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The word in the column.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::UnknownWord> {
                match text { $($word => Ok(Self::$variant),)* _ => Err($crate::UnknownWord(text.to_owned())) }
            }
        }
    };
}
pub(crate) use words;
