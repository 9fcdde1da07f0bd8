//! HTTP with the guest.

use std::{convert::Infallible, io, sync::Arc};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use matchlock_model::one_line;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{Connection, Then, carry::carry, limits, tasks::Tasks};
use crate::gateway::End;

/// Serve a connection to its end.
pub(super) async fn serve<S>(guest: S, connection: Connection, mut then: oneshot::Receiver<Then>, tasks: &Tasks) -> End
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(guest);
    let http2 = connection.http2.is_some();
    let connection = Arc::new(connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        // In a box, for hyper keeps room for it between two requests, too.
        Box::pin(async move { Ok::<_, Infallible>(carry(connection, request).await) })
    });
    let outcome = if http2 {
        let (stream_window, connection_window) = limits::GUEST_WINDOWS;
        let serving = http2::Builder::new(tasks.spawner())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits::STREAMS)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_header_list_size(limits::MAX_HEAD_LIST)
            .max_send_buf_size(limits::SEND_BUFFER)
            .max_pending_accept_reset_streams(limits::RESETS)
            .max_local_error_reset_streams(limits::RESETS)
            .serve_connection(io, service);
        // Connections with HTTP/1.1 need no room for it.
        Box::pin(serving).await
    } else {
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::IDLE_DEADLINE)
            .auto_date_header(false)
            .preserve_header_case(true)
            .max_headers(limits::MAX_HEADERS)
            .max_header_size(limits::MAX_HEAD)
            .max_buf_size(limits::READ_BUFFER)
            .serve_connection(io, service)
            .with_upgrades()
            .await
    };
    if let Ok(then) = then.try_recv() {
        then.await;
    }
    outcome.map_or_else(|e| end(&e), |()| End::Done)
}

fn end(e: &hyper::Error) -> End {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::UnexpectedEof;
    let source = std::error::Error::source(e).and_then(|source| source.downcast_ref());
    // Idle for too long, or closed without saying so in TLS, as many do.
    if e.is_timeout() || source.is_some_and(closed) {
        return End::Done;
    }
    if e.is_parse() || e.is_parse_too_large() {
        return End::Blocked(format!("it is no HTTP that is understood: {}", one_line(e)));
    }
    End::Failed(one_line(e))
}
