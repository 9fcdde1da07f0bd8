//! How `matchlock` ends: the one table of exit codes (`docs/exit-codes.md` shows it).

/// The exit status of a `matchlock` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// The guest command ended by itself with this code, or the host command succeeded (0).
    Code(u8),
    /// The guest command was ended by this signal.
    Signal(u8),
    /// Matchlock could not do what was asked; a line on stderr says why.
    Failure,
    /// `--timeout` ran out.
    TimedOut,
    /// The command exists in the guest but cannot be executed.
    NotExecutable,
    /// The command, its user or its working folder does not exist in the guest.
    NotFound,
    /// `matchlock` itself was asked to end by this signal, and cleaned up.
    Interrupted(u8),
}

impl ExitStatus {
    /// Nothing went wrong.
    pub const SUCCESS: Self = Self::Code(0);

    /// The number given to the calling process.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Failure => 1,
            Self::TimedOut => 124,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Signal(n) | Self::Interrupted(n) => 128u8.saturating_add(n),
        }
    }
}
