//! What host and guest say to each other, and the multiplexer that carries it over one ordered byte stream.
//!
//! ```text
//! frame = kind u8 | channel u8 | zero u16 | session u32 | length u32 | payload      (little-endian, 12-byte header)
//!
//! host                                              guest
//!   | <------------------------------------- Hello    |   once, when the guest is ready
//!   | Open(session, Request) ---------------------->  |   only the host opens sessions
//!   | Data/Eof(Input) ------> <------ Data/Eof(Output, Error)
//!   | <------ Credit per channel, both ways ------>   |   a sender never has more under way than it was granted
//!   | Note(Resize) --------> <- Note(Started, Exited, Failed, Done)
//!   | End (cancel) ---------> <-------------- End     |   the guest's End is the session's last frame
//! ```
//!
//! [`Mux`] is that protocol without any I/O: bytes in, [`Event`]s out; calls in, bytes out. The supervisor drives it from
//! an async task, the guest's agent from its poll loop, `matchlock exec` over a sandbox's Unix socket (there the
//! supervisor plays the guest).
//!
//! Invariant: the peer may be hostile. Every length is checked against the bound of its kind in [`limits`] before anything
//! is kept, data beyond the granted credit or for a session that cannot be is an error, and after an error the stream
//! is to be closed.

mod frame;
pub mod limits;
mod message;
mod mux;

/// The name that the host gives the virtio-serial port of the link, by which the guest finds it.
pub const PORT_NAME: &str = "matchlock.control";

/// The program that [`Request::Park`] and [`Request::Warm`] run, in the image on the disk that it names.
pub const REHEARSAL: &str = "/rehearsal";

pub use frame::{Channel, Kind};
pub use message::{
    Authority, DiskMount, Exec, ExitKind, Failure, FailureKind, Hello, HostEntry, Milestone, NetworkLink, Note, Park,
    Request, RootDisks, Start, Stdio, TerminalSize, Warm,
};
pub use mux::{Event, Mux, Role, SessionId, WireError};
