//! The internet's web server, the same behind every name: HTTP/1.1 and HTTP/2, with what stories need of a site.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | so many bytes |
//! | `/chunks`, `/sse` | three pieces, one by one |
//! | `/trailers` | a body with a trailer after it |
//! | `/redirect?URL` | go there |
//! | `/cookie` | a cookie |
//! | `/echo` | `Authorization`, a space and the body; as `/echo/gzip` (compressed), `/echo/pieces` (byte by byte), `/echo/header` (in a header), `/echo/range` (as much as `Range` says; all, without) |
//! | `/ws` | a WebSocket that sends everything back |
//! | `/dns-query` | DNS over HTTPS |
//! | any, of type `application/grpc` | the messages back |
//! | anything else | a file of the name's, or what has arrived, as JSON |

use std::{convert::Infallible, io::Write, sync::Arc};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, channel::Channel, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, LOCATION, RANGE, SET_COOKIE},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    dns::Dns,
    record::{self, Arrival, Records},
    repositories::Repositories,
    stream::{Reached, Recorded},
    websocket,
};

/// Largest body of a request.
const BODY: usize = 64 << 20;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// All sites. Clones share.
#[derive(Clone, Debug)]
pub(super) struct Web {
    pub(super) records: Records,
    pub(super) dns: Dns,
    pub(super) repositories: Arc<Repositories>,
}

impl Web {
    /// Serve one connection.
    pub(super) async fn connection<S>(self, stream: S, reached: Reached)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(Recorded::new(stream, &reached, &self.records));
        let service = service_fn(move |request| {
            let (web, reached) = (self.clone(), reached.clone());
            async move {
                let failed = |error: anyhow::Error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n"));
                Ok::<_, Infallible>(web.answer(request, reached).await.unwrap_or_else(failed))
            }
        });
        // One that a client breaks off is over, whatever hyper calls that.
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(stream, service).await;
    }

    async fn answer(self, mut request: Request<Incoming>, reached: Reached) -> Result<Response<Body>> {
        let mut seen = head(&request, reached);
        let is = |request: &Request<Incoming>, name, value: &str| {
            request.headers().get(name).is_some_and(|own: &HeaderValue| own.as_bytes().starts_with(value.as_bytes()))
        };
        if is(&request, CONTENT_TYPE, "application/grpc") {
            self.records.add(Arrival::Request(seen));
            return grpc(request.into_body());
        }
        if request.uri().path() == "/ws" {
            self.records.add(Arrival::Request(seen));
            let (response, serve) = websocket::accept(&mut request)?;
            tokio::spawn(serve);
            return Ok(response.map(|()| Full::default().boxed_unsync()));
        }
        let (parts, body) = request.into_parts();
        let body = http_body_util::Limited::new(body, BODY).collect().await.map_err(anyhow::Error::from_boxed)?;
        seen.headers.extend(body.trailers().map(pairs).unwrap_or_default());
        seen.body = body.to_bytes().to_vec();
        self.records.add(Arrival::Request(seen.clone()));
        if let Some(response) = self.repositories.answer(&seen, &parts).await? {
            return Ok(response.map(|bytes| Full::new(bytes).boxed_unsync()));
        }
        self.site(&seen, &parts.headers, parts.uri.path(), parts.uri.query().unwrap_or_default())
    }

    fn site(&self, seen: &record::Request, headers: &HeaderMap, path: &str, query: &str) -> Result<Response<Body>> {
        let mut response = Response::builder();
        if let Some(length) = path.strip_prefix("/bytes/") {
            return Ok(response.body(Full::from(vec![b'x'; length.parse()?]).boxed_unsync())?);
        }
        let authorization = headers.get(AUTHORIZATION).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let echo = [&authorization[..], b" ", &seen.body].concat();
        let body = match path {
            "/chunks" => pieces(["one\n", "two\n", "three\n"].map(Bytes::from).into(), HeaderMap::new()),
            "/sse" => {
                response = response.header(CONTENT_TYPE, "text/event-stream");
                pieces([1, 2, 3].map(|n| Bytes::from(format!("data: {n}\n\n"))).into(), HeaderMap::new())
            }
            "/trailers" => {
                let trailers = HeaderMap::from_iter([("x-trailer".parse()?, HeaderValue::from_static("seen"))]);
                response = response.header("trailer", "x-trailer");
                pieces(vec![Bytes::from("body\n")], trailers)
            }
            "/redirect" => {
                response = response.status(StatusCode::FOUND).header(LOCATION, query);
                Full::default().boxed_unsync()
            }
            "/cookie" => {
                response = response.header(SET_COOKIE, "session=1; Path=/").header(SET_COOKIE, "other=2");
                Full::from("cookies\n").boxed_unsync()
            }
            "/echo" => Full::from(echo).boxed_unsync(),
            "/echo/gzip" => {
                response = response.header(CONTENT_ENCODING, "gzip");
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&echo)?;
                Full::from(encoder.finish()?).boxed_unsync()
            }
            "/echo/pieces" => {
                pieces(echo.iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect(), HeaderMap::new())
            }
            "/echo/header" => {
                response = response.header("x-echo", HeaderValue::from_bytes(&authorization)?);
                Full::from("in a header\n").boxed_unsync()
            }
            "/echo/range" => {
                let mut part = &echo[..];
                if let Some((first, last)) = range(headers) {
                    part = echo.get(first..=last.min(echo.len().saturating_sub(1))).unwrap_or_default();
                    response = response
                        .status(StatusCode::PARTIAL_CONTENT)
                        .header("content-range", format!("bytes {first}-{last}/{}", echo.len()));
                }
                Full::from(part.to_vec()).boxed_unsync()
            }
            "/dns-query" => {
                response = response.header(CONTENT_TYPE, "application/dns-message");
                Full::from(self.dns.answer(&seen.body, "https").context("a DNS message")?).boxed_unsync()
            }
            _ => {
                response = response.header(CONTENT_TYPE, "application/json");
                Full::from(report(seen).to_string() + "\n").boxed_unsync()
            }
        };
        Ok(response.body(body)?)
    }
}

/// A body of these pieces, each sent by itself.
fn pieces(pieces: Vec<Bytes>, trailers: HeaderMap) -> Body {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for piece in pieces {
            sender.send_data(piece).await?;
            tokio::task::yield_now().await;
        }
        if trailers.is_empty() { Ok(()) } else { sender.send_trailers(trailers).await }
    });
    body.boxed_unsync()
}

/// What came in goes out, and all is well (gRPC over HTTP/2, responses).
fn grpc(mut messages: Incoming) -> Result<Response<Body>> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        while let Some(Ok(frame)) = messages.frame().await {
            if let Ok(data) = frame.into_data() {
                sender.send_data(data).await?;
            }
        }
        sender.send_trailers(HeaderMap::from_iter([("grpc-status".parse()?, HeaderValue::from_static("0"))])).await?;
        anyhow::Ok(())
    });
    Ok(Response::builder().header(CONTENT_TYPE, "application/grpc").body(body.boxed_unsync())?)
}

fn range(headers: &HeaderMap) -> Option<(usize, usize)> {
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(usize::MAX)))
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn head(request: &Request<Incoming>, Reached { server, sni }: Reached) -> record::Request {
    let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let authority = request.uri().authority().map(ToString::to_string);
    let is_http2 = request.version() == hyper::Version::HTTP_2;
    let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    record::Request {
        server,
        sni,
        version: format!("{:?}", request.version()),
        method: request.method().to_string(),
        host: if is_http2 { authority.or(host) } else { host.or(authority) }.unwrap_or_default(),
        target: if is_http2 { path } else { request.uri().to_string() },
        headers: pairs(request.headers()),
        body: Vec::new(),
    }
}

fn report(request: &record::Request) -> serde_json::Value {
    let record::Request { server, sni, version, method, host, target, headers, body } = request;
    json!({
        "server": server.to_string(), "sni": sni, "version": version, "method": method, "host": host, "target": target,
        "headers": headers, "body": String::from_utf8_lossy(body),
    })
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response
}
