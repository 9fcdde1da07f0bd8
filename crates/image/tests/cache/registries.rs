//! Pulling from `docker-registry`.

use std::{ffi::OsStr, fs::Permissions, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc};

use matchlock_image::{Event, RegistryAccess, Scope, Source};
use matchlock_model::Digest;
use matchlock_testkit::{Compression, ImageSpec, LayerTar, LoopbackRegistry, OciLayout, Options, busybox_layer};

use tokio::runtime::Runtime;

use crate::support::{Home, Recorder, line, noise, pull, reference, small, text, unpack};

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_every_compression_become_one_image_that_needs_no_registry_any_more() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let mut image = ImageSpec::new(vec![
        busybox_layer().unwrap(),
        LayerTar::new().file("a", 0o644, b"first").unwrap().file("b", 0o600, b"b").unwrap().finish().unwrap(),
        LayerTar::new().file("a", 0o644, b"second").unwrap().file(".wh.b", 0, b"").unwrap().finish().unwrap(),
    ]);
    image.layers[1].1 = Compression::Zstd;
    image.layers[2].1 = Compression::Plain;
    image.config = serde_json::json!({"User": "app", "WorkingDir": "/srv", "Entrypoint": ["/bin/sh"], "Env": ["A=1"]});
    let mut layout = OciLayout::new().unwrap();
    let digest = layout.add(&image).unwrap();
    registry.push(&layout, "tools/all:1").unwrap();

    let home = Home::new();
    let cache = home.cache();
    let recorder = Arc::new(Recorder::default());
    let name = registry.reference("tools/all:1");
    let pulled = cache.resolve(&reference(&name), false, recorder.clone()).await.unwrap();
    assert_eq!((pulled.scope, pulled.cached, pulled.digest), (Scope::Registry, false, digest));
    assert_eq!((pulled.config.user.as_str(), pulled.config.working_dir.as_str()), ("app", "/srv"));
    assert_eq!(pulled.size, std::fs::metadata(&pulled.rootfs).unwrap().len());
    assert_eq!(recorder.count(|event| matches!(event, Event::Resolved { layers: 3, .. })), 1);
    assert_eq!(recorder.count(|event| matches!(event, Event::Downloading { done, total, .. } if done == total)), 3);
    let unpacked = unpack(&pulled);
    let root = unpacked.path().join("root");
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "second");
    assert!(!root.join("b").exists());
    assert_eq!(std::fs::read_link(root.join("bin/sh")).unwrap(), Path::new("busybox"));
    assert_eq!(home.files().join(" "), "blobs/….erofs layers/… layers/… layers/…");

    drop(registry);
    let again = home.cache().resolve(&reference(&name), false, Arc::new(())).await.unwrap();
    assert!(again.cached);
    assert_eq!((again.digest, again.content), (pulled.digest, pulled.content));
    let error = cache.resolve(&reference(&name), true, Arc::new(())).await.unwrap_err();
    assert!(line(&error).contains("cannot reach registry localhost:"), "{}", line(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_over_tls_says_what_is_missing_until_it_is_there() {
    let registry = LoopbackRegistry::start(Options { tls: true, login: Some(("ann", "pass:word")) }).unwrap();
    registry.push(&OciLayout::of(&small("secret")).unwrap(), "private:1").unwrap();
    let (home, name) = (Home::new(), registry.reference("private:1"));
    let mut access = RegistryAccess::anonymous();
    let attempt = async |access: &RegistryAccess| {
        let result = pull(&home.cache_with(access.clone()), &name).await;
        result.map_or_else(|line| line.replace(&registry.host(), "HOST"), |image| text(&image, "file"))
    };

    let mut lines = vec![attempt(&access).await];
    access.certificate_dirs = vec![registry.certificate_dir().unwrap()];
    lines.push(attempt(&access).await);
    let auth_file = home.file("config.json");
    let log_in = |text: &str| std::fs::write(&auth_file, text.replace("HOST", &registry.host())).unwrap();
    access.auth_files = vec![auth_file.clone()];
    log_in("{not json");
    lines.push(attempt(&access).await.replace(&home.file("").display().to_string(), "HOME/"));
    log_in(r#"{"auths": {"HOST": {"username": "ann", "password": "wrong"}}}"#);
    lines.push(attempt(&access).await);
    // "ann:pass:word" in base64, as docker login writes it.
    log_in(r#"{"auths": {"HOST": {"auth": "YW5uOnBhc3M6d29yZA=="}}}"#);
    lines.push(attempt(&access).await);
    insta::assert_snapshot!(lines.join("\n"), @r"
    pull image: the certificate of HOST is not trusted (invalid peer certificate: UnknownIssuer); put its CA into /etc/docker/certs.d/HOST/ca.crt
    pull image: HOST has no image private:1, or hides it from strangers (UNAUTHORIZED); check the name, or run: docker login HOST
    pull image: HOST has no image private:1, or hides it from strangers (UNAUTHORIZED); check the name, or run: docker login HOST (HOME/config.json: not valid JSON)
    pull image: HOST refuses private:1 with the stored credentials (UNAUTHORIZED); run: docker login HOST
    secret
    ");
}

/// Run `test` again, in a process with these variables; it is to begin with [`pulled_as_told`].
fn pull_in_process(test: &str, reference: &str, variables: &[(&str, &OsStr)]) -> String {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", &format!("registries::{test}"), "--nocapture"]);
    process.env("TEST_REFERENCE", reference).envs(variables.iter().copied());
    matchlock_testkit::run(&mut process).unwrap()
}

/// In such a process: pull, and say what is in the image, or the error.
fn pulled_as_told() -> bool {
    let Ok(name) = std::env::var("TEST_REFERENCE") else { return false };
    let home = Home::new();
    let access = RegistryAccess::conventional(Path::new("/nonexistent"), |name| std::env::var_os(name));
    let result = Runtime::new().unwrap().block_on(pull(&home.cache_with(access), &name));
    println!("{}", result.map_or_else(|line| line, |image| text(&image, "file")));
    true
}

#[test]
fn credential_helpers_are_asked() {
    if pulled_as_told() {
        return;
    }
    let registry = LoopbackRegistry::start(Options { tls: false, login: Some(("ann", "word")) }).unwrap();
    registry.push(&OciLayout::of(&small("from a helper")).unwrap(), "private:1").unwrap();
    let home = Home::new();
    std::fs::write(home.file("config.json"), r#"{"credsStore": "test"}"#).unwrap();
    let helper = home.file("docker-credential-test");
    let pull = |script: &str| {
        std::fs::write(&helper, format!("#!/bin/sh\nread server\n{script}\n")).unwrap();
        std::fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", home.file("").display(), std::env::var("PATH").unwrap());
        let config = home.file("");
        let variables = [("PATH", path.as_ref()), ("DOCKER_CONFIG", config.as_os_str())];
        pull_in_process("credential_helpers_are_asked", &registry.reference("private:1"), &variables)
    };
    let output = pull(r#"echo "{\"ServerURL\":\"$server\",\"Username\":\"ann\",\"Secret\":\"word\"}""#);
    assert!(output.contains("from a helper"), "{output}");
    let output = pull("echo 'credentials not found in native keychain'; exit 1");
    assert!(output.contains("run: docker login localhost:") && !output.contains("keychain"), "{output}");
    let output = pull("echo 'the key ring is locked' >&2; exit 1");
    assert!(output.contains("docker-credential-test failed: the key ring is locked"), "{output}");
}

#[test]
fn an_authority_in_ssl_cert_file_is_trusted() {
    if pulled_as_told() {
        return;
    }
    let registry = LoopbackRegistry::start(Options { tls: true, login: None }).unwrap();
    registry.push(&OciLayout::of(&small("over TLS")).unwrap(), "app:1").unwrap();
    let authority = registry.certificate_dir().unwrap().join(registry.host()).join("ca.crt");
    let (name, variables) = (registry.reference("app:1"), [("SSL_CERT_FILE", authority.as_os_str())]);
    let output = pull_in_process("an_authority_in_ssl_cert_file_is_trusted", &name, &variables);
    assert!(output.contains("over TLS"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variant_for_this_machine_is_taken_and_others_are_refused() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let ours = small("ours");
    let other = |name: &str| ImageSpec { architecture: name.to_owned(), ..small(name) };
    let mut layout = OciLayout::new().unwrap();
    layout.add(&other("s390x")).unwrap();
    let digest = layout.add(&ours).unwrap();
    layout.nest("all").unwrap();
    registry.push(&layout, "all:1").unwrap();
    let mut layout = OciLayout::new().unwrap();
    layout.add(&other("s390x")).unwrap();
    layout.add(&other("mips64le")).unwrap();
    layout.nest("foreign").unwrap();
    registry.push(&layout, "foreign:1").unwrap();
    registry.push(&OciLayout::of(&other("s390x")).unwrap(), "single:1").unwrap();

    let home = Home::new();
    let cache = home.cache();
    let image = pull(&cache, &registry.reference("all:1")).await.unwrap();
    assert_eq!((text(&image, "file").as_str(), image.digest), ("ours", digest));
    let mut lines = Vec::new();
    for name in ["foreign:1", "single:1", "absent:1", "all:2"] {
        let line = pull(&cache, &registry.reference(name)).await.unwrap_err();
        lines.push(line.replace(&registry.host(), "HOST").replace(&ours.architecture, "OURS"));
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    pull image: no child with platform linux/OURS (there is linux/mips64le, linux/s390x)
    pull image: the image is for linux/s390x, and this machine runs linux/OURS
    pull image: HOST has no image absent:1 (MANIFEST_UNKNOWN); check the name and the tag
    pull image: HOST has no image all:2 (MANIFEST_UNKNOWN); check the name and the tag
    ");
    let pinned = format!("{}@{digest}", registry.reference("all"));
    assert_eq!(pull(&cache, &pinned).await.unwrap().content, image.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_tampered_with_leaves_nothing_and_is_fetched_again_later() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let layout = OciLayout::of(&small(&"content ".repeat(1000))).unwrap();
    registry.push(&layout, "app:1").unwrap();
    let name = registry.reference("app:1");
    let home = Home::new();
    let cache = home.cache();
    let good = pull(&cache, &name).await.unwrap();
    let compressed = cache.list().unwrap()[0].image.layers[0].digest;
    cache.remove(&reference(&name)).unwrap();
    assert!(home.files().is_empty(), "{:?}", home.files());

    let stored = registry.blob_file(&compressed.hex());
    let bytes = std::fs::read(&stored).unwrap();
    let mut lines = Vec::new();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    for bad in [&flipped[..], &bytes[..bytes.len() / 2]] {
        std::fs::write(&stored, bad).unwrap();
        let line = pull(&cache, &name).await.unwrap_err();
        assert!(home.finished().is_empty(), "{:?}", home.files());
        lines.push(line);
    }
    assert!(lines[0].starts_with("pull image: a layer has digest sha256:"), "{}", lines[0]);
    assert!(lines[1].starts_with("pull image: a layer has "), "{}", lines[1]);
    std::fs::write(&stored, &bytes).unwrap();
    assert_eq!(pull(&cache, &name).await.unwrap().content, good.content);
    assert_eq!(home.files().join(" "), "blobs/….erofs layers/…");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_were_tampered_with_are_refused() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let mut layout = OciLayout::new().unwrap();
    let manifest = layout.add(&small("x")).unwrap();
    registry.push(&layout, "app:1").unwrap();
    let text = std::fs::read_to_string(layout.blob_path(&manifest)).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let config: Digest = document["config"]["digest"].as_str().unwrap().parse().unwrap();
    let mut lines = Vec::new();
    for digest in [config, manifest] {
        let stored = registry.blob_file(&digest.hex());
        let changed = std::fs::read_to_string(&stored).unwrap().replacen(':', ": ", 1);
        std::fs::write(&stored, changed).unwrap();
        let pinned = format!("{}@{manifest}", registry.reference("app"));
        let line = pull(&Home::new().cache(), &pinned).await.unwrap_err();
        assert!(line.contains(&format!("expected {digest}")), "{line}");
        lines.push(line.split(" sha256:").next().unwrap().to_owned());
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    pull image: the image configuration has digest
    pull image: the manifest has digest
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_layers_are_fetched_once_and_damaged_files_are_made_again() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let base = LayerTar::new().file("base", 0o644, &noise(300_000, 1)).unwrap().finish().unwrap();
    let top = |content: &[u8]| LayerTar::new().file("top", 0o644, content).unwrap().finish().unwrap();
    for (name, content) in [("one:1", b"one"), ("two:1", b"two")] {
        registry.push(&OciLayout::of(&ImageSpec::new(vec![base.clone(), top(content)])).unwrap(), name).unwrap();
    }
    let (home, recorder) = (Home::new(), Arc::new(Recorder::default()));
    let cache = home.cache();
    let one = pull(&cache, &registry.reference("one:1")).await.unwrap();
    let two = reference(&registry.reference("two:1"));
    cache.resolve(&two, false, recorder.clone()).await.unwrap();
    assert_eq!(recorder.count(|event| matches!(event, Event::LayerCached { .. })), 1);

    // A cached layer with the right length and wrong bytes, and no image file: both are made again.
    let layer = home.layout().layers().join(cache.list().unwrap()[1].image.layers[0].digest.file_stem());
    let length = usize::try_from(std::fs::metadata(&layer).unwrap().len()).unwrap();
    std::fs::write(&layer, noise(length, 2)).unwrap();
    std::fs::remove_file(&one.rootfs).unwrap();
    let again = pull(&cache, &registry.reference("one:1")).await.unwrap();
    assert!(!again.cached);
    assert_eq!(again.content, one.content);
    // An image file that lost its end, or some of its first block.
    for damage in [|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 4096), |bytes: &mut Vec<u8>| bytes[1100] ^= 1] {
        let mut bytes = std::fs::read(&one.rootfs).unwrap();
        damage(&mut bytes);
        std::fs::write(&one.rootfs, bytes).unwrap();
        assert!(!pull(&cache, &registry.reference("one:1")).await.unwrap().cached);
        assert!(pull(&cache, &registry.reference("one:1")).await.unwrap().cached);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_pull_one_image_do_the_work_once() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let layer = LayerTar::new().file("big", 0o644, &noise(20_000_000, 3)).unwrap().finish().unwrap();
    registry.push(&OciLayout::of(&ImageSpec::new(vec![layer])).unwrap(), "big:1").unwrap();
    let (home, recorder) = (Home::new(), Arc::new(Recorder::default()));
    let name = reference(&registry.reference("big:1"));
    let caches = [home.cache(), home.cache(), home.cache()];
    let [first, second, third] = caches.each_ref().map(|cache| cache.resolve(&name, false, recorder.clone()));
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!(first.as_ref().unwrap().content, second.unwrap().content);
    assert_eq!(first.unwrap().content, third.unwrap().content);
    assert_eq!(recorder.count(|event| matches!(event, Event::Waiting)), 2);
    assert_eq!(recorder.count(|event| matches!(event, Event::Unpacking { .. })), 1);
    let list = home.cache().list().unwrap();
    assert_eq!((list.len(), list[0].image.source), (1, Source::Registry));
}
