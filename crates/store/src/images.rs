//! The image database, `~/.cache/matchlock/images/metadata.db`: which images there are and which files they need.
//!
//! Called by `matchlock-image`. Invariant: an image's row, its layers and the reference counts change in one
//! transaction, so a file that any image needs is always among [`ImageStore::referenced`].

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use matchlock_model::{CacheLayout, Digest, ImageConfig};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::{StoreError, columns, database::Database, migration::Migration, words::words};

const SCHEMA: &[Migration] = &[
    Migration {
        module: "image",
        version: 1,
        name: "create_images",
        sql: "
            CREATE TABLE images (
                scope TEXT NOT NULL,
                tag TEXT NOT NULL,
                digest TEXT,
                size INTEGER NOT NULL DEFAULT 0,
                created_at TEXT NOT NULL,
                source TEXT,
                rootfs_path TEXT NOT NULL,
                oci_json TEXT,
                updated_at TEXT NOT NULL,
                PRIMARY KEY (scope, tag)
            );
            CREATE INDEX idx_images_scope_created ON images (scope, created_at DESC);
            CREATE INDEX idx_images_digest ON images (digest);",
    },
    Migration {
        module: "image",
        version: 2,
        name: "create_image_layers_erofs_schema",
        sql: "
            CREATE TABLE image_layers (
                scope TEXT NOT NULL,
                tag TEXT NOT NULL,
                ordinal INTEGER NOT NULL,
                digest TEXT NOT NULL,
                fs_type TEXT NOT NULL DEFAULT 'erofs',
                size INTEGER NOT NULL DEFAULT 0,
                PRIMARY KEY (scope, tag, ordinal)
            );
            CREATE INDEX idx_image_layers_ref ON image_layers (scope, tag);
            CREATE INDEX idx_image_layers_digest ON image_layers (digest);
            CREATE INDEX idx_image_layers_digest_fs ON image_layers (digest, fs_type);
            CREATE TABLE layer_refs (
                digest TEXT NOT NULL,
                fs_type TEXT NOT NULL DEFAULT 'erofs',
                ref_count INTEGER NOT NULL DEFAULT 0,
                size INTEGER NOT NULL DEFAULT 0,
                updated_at TEXT NOT NULL,
                PRIMARY KEY (digest, fs_type)
            );
            CREATE INDEX idx_layer_refs_count ON layer_refs (ref_count);",
    },
];

words! {
    /// Who named an image.
    Scope {
        /// The user: imported, built or tagged.
        Local = "local",
        /// A registry's reference: a cache of what was pulled.
        Registry = "registry",
    }
}

words! {
    /// Where an image came from.
    Source {
        /// Pulled.
        Registry = "registry",
        /// Read from a tar, or built.
        Import = "import",
        /// Another name for an image that was there.
        Tag = "tag",
    }
}

words! {
    /// What kind of file a layer's digest names.
    LayerFormat {
        /// A filesystem image.
        Erofs = "erofs",
        /// A tar as it was served, compressed or not.
        Tar = "tar",
    }
}

/// An image as it is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Who named it.
    pub scope: Scope,
    /// Its name, in the one spelling that the caller looks it up by.
    pub tag: String,
    /// The digest of its manifest for this platform.
    pub digest: Digest,
    /// Bytes that its root filesystem takes on disk.
    pub size: u64,
    /// Where it came from.
    pub source: Source,
    /// The root filesystem, absolute.
    pub rootfs_path: PathBuf,
    /// What it says about how to run it.
    pub config: ImageConfig,
    /// What it was made of, base first.
    pub layers: Vec<Layer>,
}

/// A file that an image was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest that names the file.
    pub digest: Digest,
    /// What kind of file.
    pub format: LayerFormat,
    /// Its bytes.
    pub size: u64,
}

/// An image as it was saved, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedImage {
    /// The image.
    pub image: Image,
    /// When it was last pulled, imported or tagged.
    pub created_at: Timestamp,
}

/// The files that some image needs; every other one can be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referenced {
    /// Layers by digest.
    pub layers: BTreeSet<Digest>,
    /// Root filesystems by path.
    pub rootfs: BTreeSet<PathBuf>,
}

/// The open image database.
#[derive(Debug)]
pub struct ImageStore {
    database: Database,
}

impl ImageStore {
    /// Open the image database of `layout`, making or migrating it where needed.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written, is damaged, or was written by a newer version.
    pub fn open(layout: &CacheLayout) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open(&layout.image_database(), SCHEMA)? })
    }

    /// Save `image`, replacing the one of its scope and tag.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written; nothing is changed then.
    pub fn save(&mut self, image: &Image) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            insert_image(transaction, image)?;
            replace_layers(transaction, image)?;
            Ok(recount(transaction)?)
        })
    }

    /// The image called `tag` in `scope`.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn get(&self, scope: Scope, tag: &str) -> Result<Option<SavedImage>, StoreError> {
        self.database.read(|connection| {
            let mut rows = connection.prepare_cached("SELECT * FROM images WHERE scope = ?1 AND tag = ?2")?;
            let found = rows.query_row([scope.as_str(), tag], saved_image).optional()?;
            found.map(|image| with_layers(connection, image)).transpose()
        })
    }

    /// All images: those of the user, then those of registries, the newest first in each.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn list(&self) -> Result<Vec<SavedImage>, StoreError> {
        let mut images = self.database.read_checked(|connection| {
            let mut rows = connection.prepare_cached("SELECT * FROM images")?;
            let images = rows.query_map((), saved_image)?;
            images.map(|image| with_layers(connection, image?)).collect::<rusqlite::Result<Vec<_>>>()
        })?;
        images.sort_by(|a, b| a.image.scope.cmp(&b.image.scope).then(b.created_at.cmp(&a.created_at)));
        Ok(images)
    }

    /// The names in `scope`, the newest first. Unlike [`list`](Self::list) it does not look for damage first, so that
    /// nothing may be concluded from a name that is not among them.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn tags(&self, scope: Scope) -> Result<Vec<String>, StoreError> {
        self.database.read(|connection| {
            let mut rows =
                connection.prepare_cached("SELECT tag FROM images WHERE scope = ?1 ORDER BY created_at DESC")?;
            rows.query_map([scope.as_str()], |row| row.get(0))?.collect()
        })
    }

    /// Forget the image called `tag` in `scope`; was there one?
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub fn delete(&mut self, scope: Scope, tag: &str) -> Result<bool, StoreError> {
        self.database.write(|transaction| {
            transaction.execute("DELETE FROM image_layers WHERE scope = ?1 AND tag = ?2", [scope.as_str(), tag])?;
            let deleted =
                transaction.execute("DELETE FROM images WHERE scope = ?1 AND tag = ?2", [scope.as_str(), tag])?;
            recount(transaction)?;
            Ok(deleted > 0)
        })
    }

    /// The files that some image needs.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn referenced(&self) -> Result<Referenced, StoreError> {
        self.database.read_checked(|connection| {
            let mut layers = connection.prepare("SELECT digest FROM layer_refs WHERE ref_count > 0")?;
            let mut rootfs = connection.prepare("SELECT rootfs_path FROM images")?;
            Ok(Referenced {
                layers: layers.query_map((), |row| columns::parse(row, "digest"))?.collect::<rusqlite::Result<_>>()?,
                rootfs: rootfs.query_map((), rootfs_path)?.collect::<rusqlite::Result<_>>()?,
            })
        })
    }
}

fn insert_image(transaction: &Transaction<'_>, image: &Image) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO images (scope, tag, digest, size, created_at, source, rootfs_path, oci_json, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?5)
         ON CONFLICT (scope, tag) DO UPDATE SET
            digest = excluded.digest, size = excluded.size, created_at = excluded.created_at,
            source = excluded.source, rootfs_path = excluded.rootfs_path, oci_json = excluded.oci_json,
            updated_at = excluded.updated_at",
        params![
            image.scope.as_str(),
            image.tag,
            image.digest.to_string(),
            image.size,
            columns::now(),
            image.source.as_str(),
            columns::path_text(&image.rootfs_path)?,
            columns::to_json(&image.config)?,
        ],
    )?;
    Ok(())
}

fn replace_layers(transaction: &Transaction<'_>, image: &Image) -> rusqlite::Result<()> {
    let (scope, tag) = (image.scope.as_str(), &image.tag);
    transaction.execute("DELETE FROM image_layers WHERE scope = ?1 AND tag = ?2", params![scope, tag])?;
    let mut insert = transaction.prepare(
        "INSERT INTO image_layers (scope, tag, ordinal, digest, fs_type, size) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (ordinal, layer) in image.layers.iter().enumerate() {
        insert.execute(params![scope, tag, ordinal, layer.digest.to_string(), layer.format.as_str(), layer.size])?;
    }
    Ok(())
}

fn recount(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM layer_refs", ())?;
    transaction.execute(
        "INSERT INTO layer_refs (digest, fs_type, ref_count, size, updated_at)
         SELECT digest, fs_type, count(*), max(size), ?1 FROM image_layers GROUP BY digest, fs_type",
        [columns::now()],
    )?;
    Ok(())
}

fn saved_image(row: &Row<'_>) -> rusqlite::Result<SavedImage> {
    Ok(SavedImage {
        image: Image {
            scope: columns::parse(row, "scope")?,
            tag: row.get("tag")?,
            digest: columns::parse(row, "digest")?,
            size: row.get("size")?,
            source: columns::parse(row, "source")?,
            rootfs_path: rootfs_path(row)?,
            config: columns::json(row, "oci_json")?,
            layers: Vec::new(),
        },
        created_at: columns::parse(row, "created_at")?,
    })
}

fn with_layers(connection: &Connection, mut saved: SavedImage) -> rusqlite::Result<SavedImage> {
    let mut rows = connection.prepare_cached(
        "SELECT digest, fs_type, size FROM image_layers WHERE scope = ?1 AND tag = ?2 ORDER BY ordinal",
    )?;
    let layers = rows.query_map([saved.image.scope.as_str(), &saved.image.tag], |row| {
        Ok(Layer {
            digest: columns::parse(row, "digest")?,
            format: columns::parse(row, "fs_type")?,
            size: row.get("size")?,
        })
    })?;
    saved.image.layers = layers.collect::<rusqlite::Result<_>>()?;
    Ok(saved)
}

fn rootfs_path(row: &Row<'_>) -> rusqlite::Result<PathBuf> {
    Ok(Path::new(row.get_ref("rootfs_path")?.as_str()?).to_owned())
}
