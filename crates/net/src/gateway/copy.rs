//! Bytes between two connections, both ways, until both have been closed.
//!
//! Only what a slow reader leaves over is kept, so an idle connection costs nothing but its sockets. Where much comes at once, it
//! does not come by here at all (`splice.rs`); what splice(2) does not carry, such as what is next to urgent data, is read.

use std::io;

use rustix::io::Errno;
use tokio::net::TcpStream;

use super::{Moved, buffer::with_buffer, splice};

/// Bytes at once that are worth a pipe.
const MUCH: usize = 32 * 1024;

/// Copy until both ends have closed; each close is passed on by itself, so that a server may answer after the question has
/// ended. An error breaks off both.
pub(crate) async fn both_ways(guest: &TcpStream, server: &TcpStream, moved: &mut Moved) -> io::Result<()> {
    let Moved { from_guest, to_guest } = moved;
    tokio::try_join!(one_way(guest, server, from_guest), one_way(server, guest, to_guest))?;
    Ok(())
}

async fn one_way(from: &TcpStream, to: &TcpStream, moved: &mut u64) -> io::Result<()> {
    let mut much = false;
    loop {
        from.readable().await?;
        if much {
            splice::has_room(to).await?;
        }
        match if much { splice::pass(from, to) } else { pass(from, to) } {
            Ok(Passed::End) => break,
            Ok(Passed::Bytes { count, left_over }) => {
                write_all(to, &left_over).await?;
                *moved += count as u64;
                much = count >= MUCH;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => much = false,
            Err(e) => return Err(e),
        }
    }
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        // It has gone altogether, which the other direction will see.
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What came of a pass.
pub(super) enum Passed {
    End,
    Bytes { count: usize, left_over: Vec<u8> },
}

/// Take what is there and give as much of it as is taken.
fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<Passed> {
    with_buffer(|buffer| {
        let count = from.try_read(buffer)?;
        if count == 0 {
            return Ok(Passed::End);
        }
        let written = match to.try_write(&buffer[..count]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            outcome => outcome?,
        };
        Ok(Passed::Bytes { count, left_over: buffer[written..count].to_vec() })
    })
}

/// Write all of it, however slowly it is taken.
pub(crate) async fn write_all(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
