//! `kill -9` in the middle of a pull or an import, and what the next command finds.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use matchlock_image::{Event, ImageCache, Progress, RegistryAccess};
use matchlock_model::CacheLayout;
use matchlock_testkit::{ImageSpec, LayerTar, LoopbackRegistry, OciLayout, Options};

use crate::support::{Home, noise, pull, reference};

/// Says so at one kind of event, and goes no further.
struct StopAt(String);

impl Progress for StopAt {
    fn event(&self, event: Event) {
        let point = match event {
            Event::Reading { done } if done > 3_000_000 => "reading",
            Event::Downloading { done, .. } if done > 3_000_000 => "downloading",
            Event::Unpacking { number: 2, .. } => "unpacking",
            Event::Finishing => "finishing",
            _ => return,
        };
        if point == self.0 {
            println!("at {point}");
            loop {
                thread::park();
            }
        }
    }
}

/// Run `test` again in a process of its own, until that is at `point`, and kill it.
fn killed_at(point: &str, home: &Home, test: &str, what: &str) {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process
        .args(["--exact", &format!("killed::{test}"), "--nocapture"])
        .env("TEST_HOME", home.file(""))
        .env("TEST_POINT", point)
        .env("TEST_REFERENCE", what)
        .stdout(Stdio::piped());
    let mut process = process.spawn().unwrap();
    let said = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(said.map_while(Result::ok).any(|line| line.contains(&format!("at {point}"))), "never at {point}");
    process.kill().unwrap();
    process.wait().unwrap();
}

/// In such a process: what to import or pull into which cache, and where to stop.
fn told() -> Option<(ImageCache, String, StopAt)> {
    let variable = |name: &str| std::env::var(name).ok();
    let layout = CacheLayout::new(&PathBuf::from(variable("TEST_HOME")?));
    let cache = ImageCache::open(&layout, RegistryAccess::anonymous()).unwrap();
    Some((cache, variable("TEST_REFERENCE")?, StopAt(variable("TEST_POINT")?)))
}

fn big_image() -> ImageSpec {
    let layer = |name, seed| LayerTar::new().file(name, 0o644, &noise(5_000_000, seed)).unwrap().finish().unwrap();
    ImageSpec::new(vec![layer("one", 11), layer("two", 12)])
}

#[test]
fn a_killed_import_is_cleaned_up_by_the_next_one() {
    if let Some((cache, archive, progress)) = told() {
        cache.import(File::open(archive).unwrap(), &reference("app:1"), &progress).unwrap();
        return;
    }
    let home = Home::new();
    let archive = home.file("archive.tar");
    std::fs::write(&archive, OciLayout::of(&big_image()).unwrap().to_tar().unwrap()).unwrap();
    for point in ["reading", "unpacking", "finishing"] {
        killed_at(point, &home, "a_killed_import_is_cleaned_up_by_the_next_one", archive.to_str().unwrap());
        assert!(home.finished().is_empty());
        // The archive itself was spooled without a name.
        let names = std::fs::read_dir(home.layout().images()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| !name.to_string_lossy().starts_with("metadata.db"));
        names.sort();
        assert_eq!(names, ["blobs", "layers", "lock"]);
    }
    home.cache().import(File::open(archive).unwrap(), &reference("app:1"), &()).unwrap();
    assert_eq!(home.files(), ["blobs/….erofs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_is_taken_up_or_cleaned_up_by_the_next_one() {
    if let Some((cache, name, progress)) = told() {
        cache.resolve(&reference(&name), false, Arc::new(progress)).await.unwrap();
        return;
    }
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&OciLayout::of(&big_image()).unwrap(), "big:1").unwrap();
    let home = Home::new();
    for point in ["downloading", "unpacking", "finishing"] {
        let test = "a_killed_pull_is_taken_up_or_cleaned_up_by_the_next_one";
        killed_at(point, &home, test, &registry.reference("big:1"));
        assert!(home.cache().list().unwrap().is_empty());
    }
    pull(&home.cache(), &registry.reference("big:1")).await.unwrap();
    assert_eq!(home.files(), ["blobs/….erofs", "layers/…", "layers/…"]);
}
