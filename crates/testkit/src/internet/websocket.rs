//! A WebSocket that sends every message back (RFC 6455).

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// The answer to a handshake, and what then serves the connection.
pub(super) fn accept(
    request: &mut Request<Incoming>,
) -> Result<(Response<()>, impl Future<Output = ()> + Send + use<>)> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).context("a WebSocket's handshake")?;
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(())?;
    let upgraded = hyper::upgrade::on(request);
    let serve = async move {
        let Ok(stream) = upgraded.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    };
    Ok((response, serve))
}
