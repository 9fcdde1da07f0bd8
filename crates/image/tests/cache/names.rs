//! Which name means which image, and what is deleted when.

use std::{
    fs::File,
    io::{Read, Write},
    sync::Arc,
};

use matchlock_image::{ImageCache, SavedImage, Scope, Source, Swept};
use matchlock_testkit::{LoopbackRegistry, OciLayout, Options};

use crate::support::{Home, line, pull, reference, small, text};

fn import(cache: &ImageCache, tag: &str, content: &str) {
    let tar = OciLayout::of(&small(content)).unwrap().to_tar().unwrap();
    cache.import(&tar[..], &reference(tag), &()).unwrap();
}

fn listed(cache: &ImageCache) -> String {
    let rows = cache.list().unwrap();
    let line = |row: &SavedImage| format!("{} {} {}", row.image.scope, row.image.source, row.image.tag);
    rows.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_noticed_where_an_image_is_missed_and_not_on_every_start() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&OciLayout::of(&small("x")).unwrap(), "app:1").unwrap();
    let home = Home::new();
    let name = registry.reference("app:1");
    pull(&home.cache(), &name).await.unwrap();
    // Only who reads the whole file notices.
    let database = home.layout().image_database();
    std::fs::OpenOptions::new().append(true).open(database).unwrap().write_all(b"x").unwrap();
    let cache = home.cache();
    assert!(cache.cached(&reference(&name)).unwrap().is_some());
    let missed = line(&cache.cached(&reference("other")).unwrap_err());
    assert!(missed.contains("not whole pages"), "{missed}");
    let missed = line(&cache.remove(&reference("other")).unwrap_err());
    assert!(missed.contains("not whole pages"), "{missed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_own_images_win_until_the_registry_is_asked_for() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    let name = registry.reference("app:2");
    registry.push(&OciLayout::of(&small("remote")).unwrap(), "app:2").unwrap();
    let home = Home::new();
    let cache = home.cache();
    import(&cache, &name, "local");
    let content = async |refresh: bool| {
        let image = cache.resolve(&reference(&name), refresh, Arc::new(())).await.unwrap();
        (image.scope, text(&image, "file"))
    };
    assert_eq!(content(false).await, (Scope::Local, "local".to_owned()));
    assert_eq!(content(true).await, (Scope::Registry, "remote".to_owned()));
    assert_eq!(content(false).await, (Scope::Local, "local".to_owned()));

    cache.remove(&reference(&name)).unwrap();
    assert_eq!(content(false).await, (Scope::Registry, "remote".to_owned()));
    cache.remove(&reference(&name)).unwrap();
    let error = cache.remove(&reference(&name)).unwrap_err();
    assert_eq!(line(&error), format!("image not found: {name:?}"));
    assert!(home.files().is_empty(), "{:?}", home.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn spellings_of_one_image_share_one_entry() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&OciLayout::of(&small("x")).unwrap(), "app:latest").unwrap();
    let home = Home::new();
    let cache = home.cache();
    let (short, long) = (registry.reference("app"), registry.reference("app:latest"));
    pull(&cache, &short).await.unwrap();
    let other = pull(&cache, &long).await.unwrap();
    assert!(other.cached);
    assert_eq!(other.tag, short);
    cache.resolve(&reference(&long), true, Arc::new(())).await.unwrap();
    assert_eq!(listed(&cache), format!("registry registry {long}"));

    import(&cache, "mine", "one");
    import(&cache, "docker.io/library/mine:latest", "two");
    assert_eq!(text(&pull(&cache, "mine:latest").await.unwrap(), "file"), "two");
    assert_eq!(listed(&cache), format!("local import docker.io/library/mine:latest; registry registry {long}"));
    cache.remove(&reference("mine")).unwrap();
    cache.remove(&reference(&short)).unwrap();
    assert_eq!(listed(&cache), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_keeps_the_files_of_a_removed_image_and_adds_none() {
    let registry = LoopbackRegistry::start(Options::default()).unwrap();
    registry.push(&OciLayout::of(&small("kept")).unwrap(), "app:1").unwrap();
    let home = Home::new();
    let cache = home.cache();
    let name = registry.reference("app:1");
    let pulled = pull(&cache, &name).await.unwrap();
    let before = home.files();
    let tagged = cache.tag(&pulled, &reference("mine:1")).unwrap();
    assert_eq!((tagged.content, home.files()), (pulled.content, before.clone()));
    assert_eq!(cache.list().unwrap()[0].image.source, Source::Tag);

    cache.remove(&reference(&name)).unwrap();
    assert_eq!(home.files(), before);
    cache.remove(&reference("mine:1")).unwrap();
    assert!(home.files().is_empty());
    // Whoever is about to start from the image has its file open.
    let mut open = &*tagged.rootfs.file;
    assert_eq!(open.read_to_end(&mut Vec::new()).unwrap() as u64, tagged.size);
    assert_eq!(cache.gc().unwrap(), Swept::default());
    let error = cache.tag(&pulled, &reference("mine:2")).unwrap_err();
    assert_eq!(line(&error), format!("image not found: {name:?}"));
}

#[test]
fn a_changed_image_under_the_same_tag_replaces_the_old_one() {
    let home = Home::new();
    let cache = home.cache();
    for content in ["one", "two"] {
        import(&cache, "app:1", content);
        assert_eq!(text(&cache.cached(&reference("app:1")).unwrap().unwrap(), "file"), content);
        assert_eq!(home.files(), ["blobs/….erofs"]);
    }
    let image = cache.cached(&reference("app:1")).unwrap().unwrap();
    std::fs::remove_file(image.rootfs).unwrap();
    let error = cache.cached(&reference("app:1")).unwrap_err();
    insta::assert_snapshot!(line(&error), @r#"image "app:1" is damaged: its file is missing or not whole; import or tag it again, or run: matchlock image rm app:1"#);
}

#[test]
fn what_a_killed_process_left_goes_with_the_next_sweep_but_nobodys_work_does() {
    let home = Home::new();
    let cache = home.cache();
    import(&cache, "app:1", "x");
    let blobs = home.layout().blobs();
    let stem = format!("sha256_{}", "a".repeat(64));
    for name in [".erofs", ".erofs.a1b2c3.tmp", ".lock"] {
        std::fs::write(blobs.join(format!("{stem}{name}")), "half").unwrap();
    }
    std::fs::write(home.layout().layers().join(format!("{stem}.tmp")), "half").unwrap();
    let lock = File::options().write(true).open(home.layout().image_lock()).unwrap();
    lock.lock_shared().unwrap();
    assert!(cache.gc().unwrap().busy);
    assert_eq!(home.files().len(), 5);
    drop(lock);
    assert_eq!(cache.gc().unwrap(), Swept { images: 1, layers: 0, bytes: 16, busy: false });
    assert_eq!(home.files(), ["blobs/….erofs"]);
}
