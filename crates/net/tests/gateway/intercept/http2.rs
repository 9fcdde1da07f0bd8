//! HTTP/2 between the guest and us, and towards servers that speak it and servers that do not.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use matchlock_net::intercept::{Authority, HTTP2_CONNECTIONS};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{
    Intercepted, Story, allowing,
    talk::{Talk, client_config, serve_tls, server_config, telling},
};
use crate::world::{DEADLINE, SERVER4, at};

pub(crate) const STORIES: &[Story] = &[
    ("intercept_http2_goes_from_end_to_end_with_trailers_and_many_at_once", end_to_end),
    ("intercept_http2_is_translated_for_servers_that_do_not_speak_it", translated),
    ("intercept_a_request_over_http2_is_for_whom_its_tls_is_with", fronting),
    ("intercept_there_is_only_so_much_http2_at_once", crowded),
    ("intercept_http2_without_tls_is_carried_if_both_ends_know", prior_knowledge),
];

type Body = BoxBody<Bytes, hyper::Error>;

/// A server that echoes bodies with a trailer, as gRPC would, and says what it was asked.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let said = format!("{:?} {} {}", request.version(), request.method(), request.uri());
    let te = request.headers().get("te").cloned();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let (parts, body) = request.into_parts();
    let trailed = body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
    let mut response = Response::new(trailed);
    response.headers_mut().insert("x-said", said.parse().unwrap());
    response.headers_mut().insert("x-host", format!("{:?}", parts.headers.get("host")).parse().unwrap());
    if let Some(te) = te {
        response.headers_mut().insert("x-te", te);
    }
    Ok(response)
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// An HTTP/2 server, with TLS if it has a name.
fn serve_http2(address: SocketAddr, name: Option<(&Authority, &str)>) {
    let config = name.map(|(internet, name)| server_config(internet, name, &[b"h2", b"http/1.1"]));
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        on_runtime(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let config = config.clone();
                tokio::spawn(async move {
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    match config {
                        None => drop(http.serve_connection(TokioIo::new(tcp), service_fn(echo)).await),
                        Some(config) => {
                            let tls = TlsAcceptor::from(config).accept(tcp).await.unwrap();
                            drop(http.serve_connection(TokioIo::new(tls), service_fn(echo)).await);
                        }
                    }
                });
            }
        });
    });
}

/// In the guest: an HTTP/2 connection with `api.x.com`.
async fn connect(it: &Intercepted) -> SendRequest<Body> {
    let tls = secure(it).await;
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    speak(TokioIo::new(tls)).await
}

/// One that may become HTTP/2.
async fn secure(it: &Intercepted) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(at(SERVER4, 443)).await.unwrap();
    let connector = TlsConnector::from(client_config(&it.authority, &[b"h2", b"http/1.1"]));
    connector.connect(ServerName::try_from("api.x.com").unwrap(), tcp).await.unwrap()
}

async fn speak<I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static>(io: I) -> SendRequest<Body> {
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(uri: &str, body: Body) -> Request<Body> {
    Request::post(uri).header("te", "trailers").body(body).unwrap()
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from(text)).map_err(|e| match e {}).boxed()
}

fn said<B>(response: &Response<B>, header: &str) -> String {
    response.headers().get(header).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

fn end_to_end() {
    let it = allowing("api.x.com");
    serve_http2(at(SERVER4, 443), Some((&it.internet, "api.x.com")));
    it.sandbox.guest.run(|| {
        on_runtime(async {
            let mut http = connect(&it).await;
            // The first is answered while its body goes on, so the second does not wait for it.
            let (pieces, body) = tokio::sync::mpsc::channel(1);
            let body = Pieces(body).boxed();
            pieces.send(Bytes::from("one")).await.unwrap();
            let mut first = http.send_request(request("https://api.x.com/pkg.Service/First", body)).await.unwrap();
            assert_eq!(first.version(), Version::HTTP_2);
            assert_eq!(said(&first, "x-said"), "HTTP/2.0 POST https://api.x.com/pkg.Service/First");
            assert_eq!(said(&first, "x-te"), "trailers");
            let next = first.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(next, "one");

            let second = http.send_request(request("https://api.x.com/2?q", full("two"))).await.unwrap();
            let second = second.into_body().collect().await.unwrap();
            assert_eq!(second.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(second.to_bytes(), "two");

            pieces.send(Bytes::from("more")).await.unwrap();
            assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "more");
            drop(pieces);
            let end = first.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(end["grpc-status"], "0");
        });
    });
    let told = "POST https://api.x.com:443/2 200 3>3 [] by --allow-host api.x.com done";
    assert_eq!(it.request(), told);
    let told = "POST https://api.x.com:443/pkg.Service/First 200 7>7 [] by --allow-host api.x.com done";
    assert_eq!(it.request(), told);
}

/// A body of what comes from a channel.
struct Pieces(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn translated() {
    let it = allowing("api.x.com");
    let (tell, heard) = telling();
    serve_tls(at(SERVER4, 443), &it.internet, "api.x.com", move |mut talk: Talk| {
        while talk.hears() {
            tell.send(talk.message()).unwrap();
            talk.say(
                "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
            );
        }
    });
    it.sandbox.guest.run(|| {
        on_runtime(async {
            let mut http = connect(&it).await;
            for _ in 0..2 {
                let response = http.send_request(request("https://api.x.com/a?b", full("body"))).await.unwrap();
                assert_eq!(said(&response, "keep-alive"), "");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
                let request = heard.next();
                assert!(
                    request.starts_with("POST /a?b HTTP/1.1\r\n") && request.ends_with("\r\n\r\nbody"),
                    "{request}"
                );
                assert!(request.contains("\r\nhost: api.x.com\r\n"), "{request}");
            }
        });
    });
}

fn fronting() {
    let it = allowing("api.x.com web.x.com");
    serve_http2(at(SERVER4, 443), Some((&it.internet, "api.x.com")));
    it.sandbox.guest.run(|| {
        on_runtime(async {
            let mut http = connect(&it).await;
            for (uri, host, status) in [
                ("https://web.x.com/", None, StatusCode::FORBIDDEN),
                ("https://api.x.com/", Some("web.x.com"), StatusCode::BAD_REQUEST),
                ("https://api.x.com:80/", None, StatusCode::BAD_REQUEST),
                ("https://API.x.com:443/", Some("api.x.com."), StatusCode::OK),
            ] {
                let mut request = request(uri, full(""));
                if let Some(host) = host {
                    request.headers_mut().insert("host", host.parse().unwrap());
                }
                let response = http.send_request(request).await.unwrap();
                assert_eq!(response.status(), status, "{uri} {host:?}");
                if status == StatusCode::FORBIDDEN {
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(body, "matchlock: web.x.com: asked for on a connection whose TLS is with api.x.com\n");
                } else if status == StatusCode::OK {
                    assert_eq!(said(&response, "x-host"), "None");
                }
            }
        });
    });
}

fn crowded() {
    let it = allowing("api.x.com");
    serve_http2(at(SERVER4, 443), Some((&it.internet, "api.x.com")));
    serve_http2(at(SERVER4, 80), None);
    it.sandbox.guest.run(|| {
        on_runtime(async {
            let spoken = async || {
                let tls = secure(&it).await;
                (tls.get_ref().1.alpn_protocol().unwrap() == b"h2", tls)
            };
            let mut all = Vec::new();
            for _ in 0..HTTP2_CONNECTIONS {
                let (http2, tls) = spoken().await;
                assert!(http2, "{} there are", all.len());
                all.push(tls);
            }
            assert!(!spoken().await.0);
            // One that takes no other answer gets none.
            let tcp = TcpStream::connect(at(SERVER4, 80)).await.unwrap();
            let mut clear = speak(TokioIo::new(tcp)).await;
            assert!(clear.send_request(request("http://api.x.com/", full(""))).await.is_err());
            drop(all.pop());
            let again = async { while !spoken().await.0 {} };
            tokio::time::timeout(DEADLINE, again).await.unwrap();
        });
    });
}

fn prior_knowledge() {
    let it = allowing("api.x.com");
    serve_http2(at(SERVER4, 80), None);
    it.sandbox.guest.run(|| {
        on_runtime(async {
            let tcp = TcpStream::connect(at(SERVER4, 80)).await.unwrap();
            let mut http = speak(TokioIo::new(tcp)).await;
            let response = http.send_request(request("http://api.x.com/", full("x"))).await.unwrap();
            assert_eq!(said(&response, "x-said"), "HTTP/2.0 POST http://api.x.com/");
            let refused = http.send_request(request("http://evil.com/", full("x"))).await.unwrap();
            assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        });
    });
}
