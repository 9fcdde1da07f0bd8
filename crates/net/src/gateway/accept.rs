//! Accepting connections, as many at once as may be.

use std::future::Future;

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::limits;

/// Accept for ever, and serve at most `limit` connections at once; further ones wait in the listener's backlog. Cancelled, it
/// ends them all.
pub(super) async fn serve<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    limit: usize,
    connection: impl Fn(TcpStream) -> F,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limit => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream))),
                // The process has no descriptor to spare; a connection that ends brings some. Other errors are the guest's.
                Err(e) if is_exhaustion(&e) => {
                    let ended = async {
                        if connections.join_next().await.is_none() {
                            std::future::pending::<()>().await;
                        }
                    };
                    let _ = timeout(limits::EXHAUSTED_FOR, ended).await;
                }
                Err(_) => {}
            },
        }
    }
}

fn is_exhaustion(e: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(e);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
