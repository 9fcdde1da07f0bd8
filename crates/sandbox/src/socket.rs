//! Unix sockets whose path may be longer than the 107 bytes that fit into `sockaddr_un` (unix(7)): they are addressed
//! through an open descriptor of their folder.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// How long no client is taken after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listen at `path`, for async use. The folder's mode is what keeps others out from the start.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let (_folder, short) = shorten(path)?;
    let listener = UnixListener::bind(&short)?;
    std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The next client.
pub(crate) async fn accept(listener: &tokio::net::UnixListener) -> tokio::net::UnixStream {
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            // It has left, or descriptors ran short: then nothing tells when there will be some again.
            Err(error) => {
                tracing::debug!("accept a connection: {error}");
                let _ = tokio::time::timeout(ACCEPT_PAUSE, std::future::pending::<()>()).await;
            }
        }
    }
}

/// Connect to `path`, for async use.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = shorten(path)?;
    let stream = UnixStream::connect(short)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Connect to `path`, for async use, or fail at once where whoever listens there has more to accept than it does.
pub(crate) fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = shorten(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(short)?)?;
    Ok(socket.into())
}

/// The folder, held open, and a path through it. The path is valid as long as the folder is held.
fn shorten(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a folder and a name"));
    };
    let folder = File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_length_works() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("long".repeat(50));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("exec.sock");
        let listener = listen(&path).unwrap();
        let _client = connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn whoever_does_not_accept_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("full.sock");
        let listener = listen(&path).unwrap();
        net::listen(&listener, 1).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect_now(&path).ok()).take(100).collect();
        assert!(!waiting.is_empty());
        assert_eq!(connect_now(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
