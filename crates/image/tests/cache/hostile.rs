//! Registries that break off, fall silent, or send what nobody asked for.

use std::{
    io::Write,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use matchlock_image::{Event, Progress, RegistryAccess};
use matchlock_testkit::{ImageSpec, LayerTar, LoopbackRegistry, OciLayout, Options};

use crate::{
    servers::{cutting_proxy, forward, image_of, quick, server},
    support::{Home, Recorder, line, noise, pull, reference, small},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(5_000_000), "big:1").unwrap();
    let (home, recorder) = (Home::new(), Arc::new(Recorder::default()));
    // Each answer ends after 1.5 MB: without Range requests there would be no end.
    let proxy = cutting_proxy(&registry, |request| (request.contains("/blobs/")).then_some(1_500_000));
    let image =
        home.cache_with(quick()).resolve(&reference(&format!("{proxy}/big:1")), false, recorder.clone()).await.unwrap();
    assert_eq!(recorder.count(|event| matches!(event, Event::Retrying { .. })), 3);
    let direct = pull(&Home::new().cache(), &registry.reference("big:1")).await.unwrap();
    assert_eq!(image.content, direct.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_sends_the_beginning_again() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(3_000_000), "big:1").unwrap();
    let (upstream, blobs) = (registry.host(), AtomicUsize::new(0));
    let proxy = server(move |_, request, client| {
        let whole: String =
            request.split_inclusive("\r\n").filter(|line| !line.to_lowercase().starts_with("range:")).collect();
        // The first blob is the configuration, the second the layer.
        let first = request.contains("/blobs/") && blobs.fetch_add(1, Ordering::SeqCst) == 1;
        forward(&upstream, &whole, client, if first { 2_000_000 } else { u64::MAX });
    });
    let recorder = Arc::new(Recorder::default());
    let name = reference(&format!("{proxy}/big:1"));
    let image = Home::new().cache_with(quick()).resolve(&name, false, recorder.clone()).await.unwrap();
    assert_eq!(recorder.count(|event| matches!(event, Event::Retrying { .. })), 1);
    let direct = pull(&Home::new().cache(), &registry.reference("big:1")).await.unwrap();
    assert_eq!(image.content, direct.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_failed_is_taken_up_by_the_next_one() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(5_000_000), "big:1").unwrap();
    let home = Home::new();
    // Any request for the rest breaks off at once.
    let proxy = cutting_proxy(&registry, |request| match (request.contains("/blobs/"), request.contains("range:")) {
        (true, true) => Some(0),
        (true, false) => Some(2_000_000),
        _ => None,
    });
    let line = pull(&home.cache_with(quick()), &format!("{proxy}/big:1")).await.unwrap_err();
    assert!(line.contains("broke off"), "{line}");
    assert_eq!(home.files(), ["layers/….tmp"]);

    let recorder = Arc::new(Recorder::default());
    let name = reference(&registry.reference("big:1"));
    home.cache().resolve(&name, false, recorder.clone()).await.unwrap();
    let early = |event: &Event| matches!(event, Event::Downloading { done, .. } if *done < 1_900_000);
    assert_eq!(recorder.count(early), 0, "the first part came from the earlier pull");
    assert_eq!(home.files(), ["blobs/….erofs", "layers/…"]);
}

/// Tells the test when the first layer's unpacking begins.
struct Unpacking(Sender<()>);

impl Progress for Unpacking {
    fn event(&self, event: Event) {
        if matches!(event, Event::Unpacking { number: 1, .. }) {
            self.0.send(()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_come_side_by_side_and_are_unpacked_meanwhile() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let layer = |seed| LayerTar::new().file("big", 0o644, &noise(100_000, seed)).unwrap().finish().unwrap();
    registry.push(&OciLayout::of(&ImageSpec::new((1..4).map(layer).collect())).unwrap(), "three:1").unwrap();
    let upstream = registry.host();
    let (blobs, together, (begun, has_begun)) = (AtomicUsize::new(0), Barrier::new(3), channel());
    let has_begun = Mutex::new(has_begun);
    let proxy = server(move |_, request, client| {
        // The first blob is the configuration. No layer is served before all three were asked for, and the first one's
        // unpacking has begun.
        if request.contains("/blobs/") && blobs.fetch_add(1, Ordering::SeqCst) > 0 && together.wait().is_leader() {
            has_begun.lock().unwrap().recv().unwrap();
        }
        forward(&upstream, &request, client, u64::MAX);
    });
    let name = reference(&format!("{proxy}/three:1"));
    let access = RegistryAccess { silence: Duration::from_secs(5), ..quick() };
    Home::new().cache_with(access).resolve(&name, false, Arc::new(Unpacking(begun))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_ends_and_lets_go() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&image_of(3_000_000), "big:1").unwrap();
    let (hold, released) = channel::<()>();
    let released = Mutex::new(released);
    // The layer's request is taken and never answered.
    let upstream = registry.host();
    let proxy = server(move |_, request, client| {
        if request.contains("/blobs/") && !request.contains("json") {
            let _ = released.lock().unwrap().recv();
            return;
        }
        forward(&upstream, &request, client, u64::MAX);
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
async fn layers_are_no_longer_than_declared_and_declared_no_longer_than_fits() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let mut layout = OciLayout::new().unwrap();
    let manifest = layout.add(&small("x")).unwrap();
    registry.push(&layout, "app:1").unwrap();
    let text = std::fs::read_to_string(layout.blob_path(&manifest)).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let size = document["layers"][0]["size"].as_u64().unwrap();
    let mut lines = Vec::new();
    for declared in [size - 1, (64 << 30) + 1] {
        document["layers"][0]["size"] = declared.into();
        let (upstream, body) = (registry.host(), document.to_string());
        let liar = server(move |_, request, mut client| {
            if request.contains("/manifests/") {
                let _ = write!(
                    client,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
            } else {
                forward(&upstream, &request, client, u64::MAX);
            }
        });
        let home = Home::new();
        let error = pull(&home.cache_with(quick()), &format!("{liar}/app:1")).await.unwrap_err();
        lines.push(
            error.replace(&format!("has {size} bytes, expected {declared}"), "has SIZE bytes, expected SIZE - 1"),
        );
        assert_eq!(home.finished(), [""; 0]);
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    pull image: a layer has SIZE bytes, expected SIZE - 1
    pull image: 68719476737 bytes of layers are more than the limit of 68719476736
    ");
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
