//! What one intercepted connection may use of its supervisor, and for how long, and what all of a sandbox may. How many connections
//! there are at once is the gateway's to say.

use std::time::Duration;

pub(super) use crate::gateway::SERVER_CONNECTIONS;

/// For a guest that says nothing: until its first byte, and between two requests over HTTP/1.1.
pub(super) const IDLE_DEADLINE: Duration = Duration::from_mins(3);
/// From a guest's first byte until it is clear what it speaks, and for its TLS handshake.
pub(super) const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// For what a guest still sends when its connection is closed: read, and thrown away, for else it would lose the answer.
pub(super) const LINGER_DEADLINE: Duration = Duration::from_secs(5);
/// For the TLS handshake with a server, and that of HTTP/2.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);
/// For the next piece of a body that is kept until it is whole.
pub(super) const PIECE_DEADLINE: Duration = Duration::from_mins(1);
/// Until one of a server's connections is free, where all of them have requests under way.
pub(super) const TURN_DEADLINE: Duration = Duration::from_mins(5);
/// Until a connection to a server is free for the next request, when the last response has been read. Then a new one is made.
pub(super) const REUSE_DEADLINE: Duration = Duration::from_secs(1);
/// Until what is kept back of a response, which could be the beginning of a secret's value, is passed on though nothing follows. A segment
/// that is lost comes within it, also when it is lost again.
pub(super) const PAUSE_DEADLINE: Duration = Duration::from_secs(2);
/// Until a server has said that it wants a body (RFC 9110, section 10.1.1). Then it is sent all the same.
pub(super) const CONTINUE_DEADLINE: Duration = Duration::from_secs(3);

/// A guest's first message of TLS. With keys that withstand quantum computers it has 2 kB.
pub(super) const MAX_HELLO: usize = 32 * 1024;
/// The head of a message: its first line and headers.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Read at once, and kept of what the other end does not take (HTTP/1.1).
pub(super) const READ_BUFFER: usize = 96 * 1024;
/// The same in HTTP/2, where headers are counted one by one.
pub(super) const MAX_HEAD_LIST: u32 = 64 * 1024;
/// Headers of a message.
pub(super) const MAX_HEADERS: usize = 100;
/// A body in which secrets are replaced is kept until it is whole if it says that it has no more than this, for its length has to
/// be said before it. Longer ones are sent in chunks.
pub(super) const MAX_WHOLE_BODY: u64 = 1024 * 1024;
/// Bytes of all such bodies of a sandbox. Without room for it, a body is sent in chunks, too.
pub(super) const WHOLE_BODIES: usize = 64 * 1024 * 1024;
/// Of a path, in an event.
pub(super) const MAX_TOLD_PATH: usize = 2048;

/// Connections with HTTP/2 of a sandbox: each may take up some megabytes, ten times as much as one with HTTP/1.1, which further ones are
/// served with.
pub const HTTP2_CONNECTIONS: usize = 128;
/// Requests at once on a connection (HTTP/2).
pub(super) const STREAMS: u32 = 128;
/// What a guest may send of a body before it is taken by the server, and of all bodies of a connection (HTTP/2).
pub(super) const GUEST_WINDOWS: (u32, u32) = (256 * 1024, 512 * 1024);
/// What a server may send of a body before it is taken by the guest, and of all bodies of a connection: over the width of an ocean,
/// this is what limits a download (HTTP/2).
pub(super) const SERVER_WINDOWS: (u32, u32) = (1024 * 1024, 1024 * 1024);
/// What is kept of a body that the other end does not take (HTTP/2).
pub(super) const SEND_BUFFER: usize = 64 * 1024;
/// Streams that were reset and are not accepted yet, or were reset for errors; with more, the connection ends (CVE-2023-44487).
pub(super) const RESETS: usize = 32;
