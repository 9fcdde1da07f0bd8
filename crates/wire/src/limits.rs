//! The bounds of the protocol. A frame over its bound ends the link.

/// The version that both sides must speak; raised whenever a message changes shape.
pub const PROTOCOL: u32 = 4;

/// Payload of one `Data` frame in bytes: what the guest kernel's virtio console driver takes in one write.
pub const MAX_DATA: usize = 32 * 1024;

/// Payload of an `Open` frame in bytes: twice what Linux takes as arguments and environment of one program by default
/// (2 MiB, execve(2) "Limits on size of arguments and environment").
pub const MAX_OPEN: usize = 4 * 1024 * 1024;

/// Payload of a `Note` frame in bytes.
pub const MAX_NOTE: usize = 16 * 1024;

/// Payload of a `Hello` frame in bytes.
pub const MAX_HELLO: usize = 256;

/// Notes that a guest may send in one session: more than any request needs, few enough to wait in a slow client's queue.
pub const MAX_GUEST_NOTES: u8 = 8;

/// Sessions open at the same time.
pub const MAX_SESSIONS: usize = 256;

/// Sessions that whoever had a guest saved may have opened before: those who continue it begin with the next number.
pub const PARKING_SESSIONS: u32 = 15;

/// Sessions that whoever had a guest get warm may have opened before, those of its parking included: those who take it over
/// begin with the next number.
pub const WARMING_SESSIONS: u32 = 63;

/// Bytes that may be under way on one channel of one session before its receiver grants more.
pub const WINDOW: u32 = 256 * 1024;

/// Bytes that a receiver deals with before it grants them anew: a frame for every small read would cost more than it moves.
pub const GRANT: u32 = WINDOW / 4;

/// Bytes waiting to be written to the stream above which a sender should take no more from its sources.
pub const OUTPUT_HIGH_WATER: usize = 512 * 1024;
