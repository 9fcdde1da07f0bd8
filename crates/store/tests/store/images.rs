//! The image database on real files.

use std::path::PathBuf;

use matchlock_model::{CacheLayout, Digest, ImageConfig};
use matchlock_store::{Image, ImageStore, Layer, LayerFormat, Scope, Source};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::tables;

fn home() -> (TempDir, CacheLayout) {
    let home = tempfile::tempdir().unwrap();
    let layout = CacheLayout::new(home.path());
    (home, layout)
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn image(scope: Scope, tag: &str, layers: &[u8]) -> Image {
    Image {
        scope,
        tag: tag.to_owned(),
        digest: digest(layers[0]),
        size: 4096,
        source: Source::Import,
        rootfs_path: PathBuf::from(format!("/blobs/{}.erofs", layers[0])),
        config: ImageConfig { user: "app".to_owned(), cmd: vec!["/bin/sh".to_owned()], ..ImageConfig::default() },
        layers: layers.iter().map(|n| Layer { digest: digest(*n), format: LayerFormat::Erofs, size: 10 }).collect(),
    }
}

#[test]
fn an_image_comes_back_as_it_was_saved() {
    let (_home, layout) = home();
    let saved = image(Scope::Local, "app:1", &[3, 1, 2]);
    ImageStore::open(&layout).unwrap().save(&saved).unwrap();

    let store = ImageStore::open(&layout).unwrap();
    assert_eq!(store.get(Scope::Local, "app:1").unwrap().unwrap().image, saved);
    assert_eq!(store.get(Scope::Registry, "app:1").unwrap(), None);
    assert_eq!(store.get(Scope::Local, "app").unwrap(), None);
}

#[test]
fn a_layer_is_needed_until_its_last_image_is_replaced_or_deleted() {
    let (_home, layout) = home();
    let mut store = ImageStore::open(&layout).unwrap();
    store.save(&image(Scope::Local, "a", &[1, 2])).unwrap();
    store.save(&image(Scope::Registry, "b", &[1, 3])).unwrap();
    assert_eq!(store.referenced().unwrap().layers.into_iter().collect::<Vec<_>>(), [digest(1), digest(2), digest(3)]);

    store.save(&image(Scope::Local, "a", &[1, 4])).unwrap();
    assert_eq!(store.referenced().unwrap().layers.into_iter().collect::<Vec<_>>(), [digest(1), digest(3), digest(4)]);

    assert!(store.delete(Scope::Registry, "b").unwrap());
    assert!(!store.delete(Scope::Registry, "b").unwrap());
    let referenced = store.referenced().unwrap();
    assert_eq!(referenced.layers.into_iter().collect::<Vec<_>>(), [digest(1), digest(4)]);
    assert_eq!(referenced.rootfs.into_iter().collect::<Vec<_>>(), [PathBuf::from("/blobs/1.erofs")]);
}

#[test]
fn the_users_images_are_listed_first_and_the_newest_first() {
    let (_home, layout) = home();
    let mut store = ImageStore::open(&layout).unwrap();
    for (scope, tag) in [(Scope::Registry, "r1"), (Scope::Local, "l1"), (Scope::Local, "l2"), (Scope::Registry, "r2")] {
        store.save(&image(scope, tag, &[1])).unwrap();
    }
    store.save(&image(Scope::Local, "l1", &[2])).unwrap();
    let tags: Vec<String> = store.list().unwrap().into_iter().map(|i| i.image.tag).collect();
    assert_eq!(tags, ["l1", "l2", "r2", "r1"]);
}

#[test]
fn the_documented_query_works_in_another_program() {
    let (_home, layout) = home();
    ImageStore::open(&layout).unwrap().save(&image(Scope::Local, "app:1", &[1])).unwrap();
    let other = Connection::open(layout.image_database()).unwrap();
    let row: (String, String, String, i64) = other
        .query_row("SELECT scope, tag, digest, size FROM images", (), |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
        })
        .unwrap();
    assert_eq!(row, ("local".to_owned(), "app:1".to_owned(), digest(1).to_string(), 4096));
}

#[test]
fn the_tables_are_the_documented_ones() {
    let (_home, layout) = home();
    ImageStore::open(&layout).unwrap();
    insta::assert_snapshot!(tables(&layout.image_database()), @r"
    image_layers: scope TEXT not null pk1, tag TEXT not null pk2, ordinal INTEGER not null pk3, digest TEXT not null, fs_type TEXT not null = 'erofs', size INTEGER not null = 0
    images: scope TEXT not null pk1, tag TEXT not null pk2, digest TEXT, size INTEGER not null = 0, created_at TEXT not null, source TEXT, rootfs_path TEXT not null, oci_json TEXT, updated_at TEXT not null
    layer_refs: digest TEXT not null pk1, fs_type TEXT not null = 'erofs' pk2, ref_count INTEGER not null = 0, size INTEGER not null = 0, updated_at TEXT not null
    schema_migrations: module TEXT not null pk1, version INTEGER not null pk2, name TEXT not null, applied_at TEXT not null
    ");
}
