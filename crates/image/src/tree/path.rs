//! Paths of tar entries, split and checked.

use crate::{EntryProblem, Limits};

/// A path below the root: components without `.`, `..`, slashes or NULs, each of a length that Linux takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath<'a>(Vec<&'a [u8]>);

impl<'a> EntryPath<'a> {
    /// Splits `path`; a leading slash means nothing, as with Docker.
    pub(crate) fn parse(path: &'a [u8], limits: &Limits) -> Result<Self, EntryProblem> {
        if path.contains(&0) {
            return Err(EntryProblem::Nul);
        }
        if path.len() > limits.path_len {
            return Err(EntryProblem::PathTooLong(limits.path_len));
        }
        let mut components = Vec::new();
        for component in split(path) {
            if component == b".." {
                return Err(EntryProblem::DotDot);
            }
            if component.len() > limits.name_len {
                return Err(EntryProblem::NameTooLong(limits.name_len));
            }
            components.push(component);
        }
        Ok(Self(components))
    }

    /// The components above the last one, and the last; `None` for the root itself.
    pub(crate) fn split_last(&self) -> Option<(&'a [u8], &[&'a [u8]])> {
        self.0.split_last().map(|(name, parents)| (*name, parents))
    }
}

/// The components of a path or symbolic-link target, `..` included.
pub(super) fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let parse = |path: &'static str| EntryPath::parse(path.as_bytes(), &Limits::default());
        assert_eq!(parse("/./a//b/").unwrap().0, [b"a", b"b"]);
        assert_eq!(parse("./").unwrap().split_last(), None);
        assert_eq!(parse("a/../b"), Err(EntryProblem::DotDot));
        assert_eq!(parse("a\0b"), Err(EntryProblem::Nul));
        assert_eq!(parse(".../..a").unwrap().0.len(), 2);
    }
}
