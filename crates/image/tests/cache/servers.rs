//! Servers of a test's own, and proxies in front of the real registry.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use matchlock_image::RegistryAccess;
use matchlock_testkit::{ImageSpec, LayerTar, LoopbackRegistry, OciLayout};

use crate::support::noise;

/// A server on loopback that gives each connection, with its number and its request, to `serve`.
pub(crate) fn server(serve: impl Fn(usize, String, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for (number, connection) in listener.incoming().enumerate() {
            let (Ok(mut connection), serve) = (connection, Arc::clone(&serve)) else { return };
            thread::spawn(move || serve(number, read_request(&mut connection), connection));
        }
    });
    host
}

/// One request with its body.
fn read_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|read| read > 0) {
        request.push(byte[0]);
    }
    let mut request = String::from_utf8_lossy(&request).into_owned();
    let length = request.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    connection.take(length.unwrap_or(0)).read_to_string(&mut request).unwrap();
    request
}

/// Pass `request` to `upstream`, and at most `limit` bytes of the answer to `client`.
pub(crate) fn forward(upstream: &str, request: &str, mut client: TcpStream, limit: u64) {
    let mut registry = TcpStream::connect(upstream).unwrap();
    registry.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
    let _ = std::io::copy(&mut registry.take(limit), &mut client);
}

/// In front of `registry`: `cut` says after how many bytes of an answer to break off.
pub(crate) fn cutting_proxy(
    registry: &LoopbackRegistry,
    cut: impl Fn(&str) -> Option<u64> + Send + Sync + 'static,
) -> String {
    let upstream = registry.host();
    server(move |_, request, client| forward(&upstream, &request, client, cut(&request).unwrap_or(u64::MAX)))
}

/// An image whose one layer takes more than this many bytes.
pub(crate) fn image_of(bytes: usize) -> OciLayout {
    let layer = LayerTar::new().file("big", 0o644, &noise(bytes, 7)).unwrap().finish().unwrap();
    OciLayout::of(&ImageSpec::new(vec![layer])).unwrap()
}

/// Access without long pauses between tries.
pub(crate) fn quick() -> RegistryAccess {
    RegistryAccess { pause: Duration::from_millis(5), ..RegistryAccess::anonymous() }
}
