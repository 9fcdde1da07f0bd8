//! Registries that break off, fall silent, or send what nobody asked for.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use matchlock_image::{Event, RegistryAccess};
use matchlock_testkit::{ImageSpec, LayerTar, LoopbackRegistry, OciLayout, Options};

use crate::support::{Home, Recorder, line, noise, pull, reference};

/// A server on loopback that gives each connection, with its number and its request's first line, to `serve`.
fn server(serve: impl Fn(usize, String, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for (number, connection) in listener.incoming().enumerate() {
            let (Ok(mut connection), serve) = (connection, Arc::clone(&serve)) else { return };
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|read| read > 0) {
                    request.push(byte[0]);
                }
                serve(number, String::from_utf8_lossy(&request).into_owned(), connection);
            });
        }
    });
    host
}

/// In front of `registry`: one request per connection; `cut` says after how many bytes of an answer to break off.
fn cutting_proxy(
    registry: &LoopbackRegistry,
    cut: impl Fn(usize, &str) -> Option<u64> + Send + Sync + 'static,
) -> String {
    let upstream = registry.host();
    server(move |number, request, mut client| {
        let limit = cut(number, &request).unwrap_or(u64::MAX);
        let mut registry = TcpStream::connect(&upstream).unwrap();
        registry.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
        let _ = std::io::copy(&mut registry.take(limit), &mut client);
    })
}

/// Access without long pauses between tries.
fn quick() -> RegistryAccess {
    RegistryAccess { pause: Duration::from_millis(5), ..RegistryAccess::anonymous() }
}

fn image_of(bytes: usize) -> OciLayout {
    let layer = LayerTar::new().file("big", 0o644, &noise(bytes, 7)).unwrap().finish().unwrap();
    OciLayout::of(&ImageSpec::new(vec![layer])).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(5_000_000), "big:1").unwrap();
    let (home, recorder) = (Home::new(), Arc::new(Recorder::default()));
    // Each answer ends after 1.5 MB: without Range requests there would be no end.
    let proxy = cutting_proxy(&registry, |_, request| (request.contains("/blobs/")).then_some(1_500_000));
    let image =
        home.cache_with(quick()).resolve(&reference(&format!("{proxy}/big:1")), false, recorder.clone()).await.unwrap();
    assert_eq!(recorder.count(|event| matches!(event, Event::Retrying { .. })), 3);
    let direct = pull(&Home::new().cache(), &registry.reference("big:1")).await.unwrap();
    assert_eq!(image.content, direct.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_failed_is_taken_up_by_the_next_one() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(5_000_000), "big:1").unwrap();
    let home = Home::new();
    // Any request for the rest breaks off at once.
    let proxy =
        cutting_proxy(&registry, |_, request| match (request.contains("/blobs/"), request.contains("range:")) {
            (true, true) => Some(0),
            (true, false) => Some(2_000_000),
            _ => None,
        });
    let line = pull(&home.cache_with(quick()), &format!("{proxy}/big:1")).await.unwrap_err();
    assert!(line.contains("broke off"), "{line}");
    assert_eq!(home.files(), ["blobs/….lock", "layers/….tmp"]);

    let recorder = Arc::new(Recorder::default());
    let name = reference(&registry.reference("big:1"));
    home.cache().resolve(&name, false, recorder.clone()).await.unwrap();
    let early = |event: &Event| matches!(event, Event::Downloading { done, .. } if *done < 1_900_000);
    assert_eq!(recorder.count(early), 0, "the first part came from the earlier pull");
    assert_eq!(home.files(), ["blobs/….erofs", "layers/…"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_ends_and_lets_go() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(3_000_000), "big:1").unwrap();
    let (hold, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    // The layer's request is taken and never answered.
    let upstream = registry.host();
    let proxy = server(move |_, request, mut client| {
        if request.contains("/blobs/") && !request.contains("json") {
            let _ = released.lock().unwrap().recv();
            return;
        }
        let mut registry = TcpStream::connect(&upstream).unwrap();
        registry.write_all(request.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
        let _ = std::io::copy(&mut registry, &mut client);
    });
    let home = Home::new();
    let cache = home.cache();
    let name = reference(&format!("{proxy}/big:1"));
    let attempt = cache.resolve(&name, false, Arc::new(()));
    assert!(tokio::time::timeout(Duration::from_millis(500), attempt).await.is_err());
    drop(hold);
    let image = pull(&cache, &registry.reference("big:1")).await.unwrap();
    assert_eq!(image.size, std::fs::metadata(image.rootfs).unwrap().len());
    assert_eq!(home.files(), ["blobs/….erofs", "layers/…"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_are_one_line() {
    let answer = |head: &'static str, body: &'static str| {
        server(move |_, _, mut client| {
            let _ =
                write!(client, "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        })
    };
    let endless = server(|_, _, mut client| {
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"schemaVersion\": 2, \"x\": \"");
        while client.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let boast = server(|_, _, mut client| {
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
    });
    let foreign_tokens = server(|_, request, mut client| {
        let challenge = "Bearer realm=\"http://tokens.example/\",service=\"x\"";
        assert!(!request.contains("authorization"));
        let _ = write!(
            client,
            "HTTP/1.1 401 No\r\nConnection: close\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
        );
    });
    let silent = server(|_, _, client| {
        let _ = client.peer_addr().map(|_| thread::park());
    });
    let too_many = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let broken = r#"{"errors":[{"code":"UNKNOWN","message":"disk\u001b[31m full"}]}"#;
    let hosts = [
        answer("200 OK", "<html>hello</html>"),
        answer("429 Too Many Requests", too_many),
        answer("507 Insufficient Storage", broken),
        answer("403 Forbidden", ""),
        endless,
        boast,
        foreign_tokens,
        silent,
    ];
    let access = RegistryAccess { silence: Duration::from_millis(300), ..quick() };
    let mut lines = String::new();
    for host in hosts {
        let home = Home::new();
        let cache = home.cache_with(access.clone());
        let error = cache.resolve(&reference(&format!("{host}/x")), false, Arc::new(())).await.unwrap_err();
        lines += &(line(&error).replace(&host, "HOST") + "\n");
        assert!(home.files().is_empty());
    }
    insta::assert_snapshot!(lines, @r"
    pull image: the manifest is not valid JSON of its kind: expected value at line 1 column 1
    pull image: HOST limits how often it answers (TOOMANYREQUESTS); try again later, or run: docker login HOST
    pull image: HOST answered 507 to the request for the manifest (disk[31m full)
    pull image: HOST has no image x:latest, or hides it from strangers (UNAUTHORIZED); check the name, or run: docker login HOST
    pull image: the manifest from HOST is larger than the limit of 4194304 bytes
    pull image: the manifest from HOST is larger than the limit of 4194304 bytes
    pull image: the token server tokens.example of HOST is not reached over https; nothing was sent to it
    pull image: HOST sent nothing for 300ms; try again
    ");
}
