//! Databases that are not as they should be: damaged, newer, read-only.

use std::{
    ffi::CString,
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use matchlock_model::{Phase, StateLayout};
use matchlock_store::{Sandbox, SandboxStore, StoreError, move_aside};
use rusqlite::Connection;
use rustix::{
    fs::Uid,
    mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount},
    process::geteuid,
    thread::set_thread_res_uid,
};
use tempfile::TempDir;

use crate::support::{home, id, register};

/// A database with rows in every table, closed in order.
fn filled(layout: &StateLayout) -> Vec<Sandbox> {
    let mut store = SandboxStore::open(layout).unwrap();
    for number in 0..40 {
        let action = matchlock_store::Action::RemoveDir { path: layout.vm(&id(number)).dir().to_owned() };
        register(&mut store, &id(number), &[action]).unwrap();
        store.advance(&id(number), &[Phase::Created, Phase::Starting, Phase::Running], |_| {}).unwrap();
    }
    store.list().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn only_the_owner_can_look_into_it() {
    let (_home, layout) = home();
    fs::create_dir(layout.root()).unwrap();
    fs::set_permissions(layout.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(layout.database(), "").unwrap();
    fs::set_permissions(layout.database(), fs::Permissions::from_mode(0o644)).unwrap();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[]).unwrap();
    assert_eq!(mode(layout.root()), 0o700);
    for entry in fs::read_dir(layout.root()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn what_is_no_database_is_said_plainly_and_left_alone_until_moved_aside() {
    let (_home, layout) = home();
    fs::create_dir_all(layout.root()).unwrap();
    let garbage = "these are not the bytes of a database ".repeat(100);
    fs::write(layout.database(), &garbage).unwrap();
    let error = SandboxStore::open(&layout).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }));
    let shown = error.to_string();
    assert!(shown.contains(layout.database().to_str().unwrap()) && shown.contains("gc --move-aside"), "{shown}");
    assert_eq!(fs::read_to_string(layout.database()).unwrap(), garbage);

    let aside = move_aside(&layout.database()).unwrap();
    assert_eq!(fs::read_to_string(aside).unwrap(), garbage);
    assert!(SandboxStore::open(&layout).unwrap().list().unwrap().is_empty());
    let gone = layout.root().join("none.db");
    assert!(matches!(move_aside(&gone), Err(StoreError::NotWritable { path, .. }) if path == gone));
}

#[test]
fn a_damaged_page_is_never_half_a_list() {
    let (_home, layout) = home();
    let all = filled(&layout);
    let whole = fs::read(layout.database()).unwrap();
    let page_size = usize::from(u16::from_be_bytes([whole[16], whole[17]]));
    let pages = whole.len() / page_size;
    assert!(pages > 10, "only {pages} pages");
    // A leaf of a table that holds no rows (SQLite file format, "B-tree Pages"): sound by itself.
    let mut empty_leaf = vec![0; page_size];
    empty_leaf[0] = 0x0d;
    empty_leaf[5..7].copy_from_slice(&u16::try_from(page_size).unwrap().to_be_bytes());

    let mut variants = Vec::new();
    for page in 0..pages {
        for content in [vec![0; page_size], vec![0xff; page_size], empty_leaf.clone()] {
            let mut damaged = whole.clone();
            damaged[page * page_size..][..page_size].copy_from_slice(&content);
            variants.push((format!("page {page}"), damaged));
        }
    }
    // SQLite takes none and one byte for an empty database.
    for length in [2, 100, page_size, page_size * 2, whole.len() - page_size, whole.len() - 1] {
        variants.push((format!("cut to {length} bytes"), whole[..length].to_vec()));
    }
    let mut noticed = 0;
    for (what, damaged) in &variants {
        fs::write(layout.database(), damaged).unwrap();
        match SandboxStore::open(&layout).and_then(|mut store| store.list()) {
            Err(StoreError::Damaged { .. }) => noticed += 1,
            // It was the page of a table without rows, or a byte that nothing was in.
            Ok(list) if list == all => {}
            other => panic!("{what}, and then: {other:?}"),
        }
    }
    assert!(noticed > variants.len() * 9 / 10, "{noticed} of {}", variants.len());
    fs::write(layout.database(), &whole).unwrap();
    assert_eq!(SandboxStore::open(&layout).unwrap().list().unwrap(), all);
}

#[test]
fn a_value_that_cannot_be_is_damage_and_is_named() {
    for (change, column) in [
        ("UPDATE vms SET status = 'dancing'", "status"),
        ("UPDATE vms SET id = '../../etc'", "id"),
        ("UPDATE vms SET created_at = 'yesterday'", "created_at"),
        ("UPDATE vms SET config_json = '{'", "config_json"),
        ("UPDATE vms SET pid_start_time = -1", "-1"),
    ] {
        let (_home, layout) = home();
        register(&mut SandboxStore::open(&layout).unwrap(), &id(1), &[]).unwrap();
        Connection::open(layout.database()).unwrap().execute_batch(change).unwrap();
        let error = SandboxStore::open(&layout).unwrap().list().unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { detail, .. } if detail.contains(column)), "{change}: {error}");
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let (_home, layout) = home();
    SandboxStore::open(&layout).unwrap();
    let other = Connection::open(layout.database()).unwrap();
    other.execute_batch("INSERT INTO schema_migrations VALUES ('state', 99, 'later', '2030-01-01T00:00:00Z')").unwrap();
    let error = SandboxStore::open(&layout).unwrap_err().to_string();
    assert!(error.contains("newer matchlock (state schema 99"), "{error}");
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let (home, layout) = home();
    let register = || register(&mut SandboxStore::open(&layout)?, &id(1), &[]);
    let refused = |expected: &Path| match as_ordinary_user(register) {
        Err(StoreError::NotWritable { path, source }) => {
            assert_eq!(path, expected);
            assert!(matches!(source.kind(), ErrorKind::PermissionDenied), "{source}");
        }
        other => panic!("{other:?}"),
    };
    give_to_ordinary_user(home.path());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o555)).unwrap();
    refused(layout.root());

    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    as_ordinary_user(|| SandboxStore::open(&layout).map(drop)).unwrap();
    fs::set_permissions(layout.root(), fs::Permissions::from_mode(0o500)).unwrap();
    refused(layout.root());

    fs::set_permissions(layout.root(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(layout.database(), fs::Permissions::from_mode(0o400)).unwrap();
    refused(&layout.database());
}

#[test]
fn a_full_disk_is_said_and_costs_nothing_that_was_written() {
    if !geteuid().is_root() {
        println!("skipped: only root can mount a small disk");
        return;
    }
    let mut refused = 0;
    // With more room from one time to the next, every step of making a database meets the full disk.
    for kib in (12..).step_by(20) {
        let disk = SmallDisk::new(kib);
        let layout = StateLayout::new(disk.0.path());
        let mut written = 0;
        let error = SandboxStore::open(&layout).and_then(|mut store| {
            register(&mut store, &id(1), &[])?;
            loop {
                store.advance(&id(1), &[Phase::Creating], |_| {})?;
                written += 1;
            }
        });
        let Err::<(), _>(error) = error else { unreachable!() };
        assert!(
            matches!(&error, StoreError::NotWritable { source, .. } if source.kind() == ErrorKind::StorageFull),
            "with {kib} KiB: {error:?}"
        );
        refused += 1;
        if written > 200 {
            disk.grow();
            let mut store = SandboxStore::open(&layout).unwrap();
            assert_eq!(store.history(&id(1)).unwrap().len(), written + 1);
            store.list().unwrap();
            break;
        }
    }
    assert!(refused > 10, "{refused}");
}

/// A file system in memory.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(kib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = CString::new(format!("size={kib}k")).unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(folder)
    }

    fn grow(&self) {
        mount_remount(self.0.path(), MountFlags::empty(), c"size=16m").unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// The user `nobody` of Debian.
const NOBODY: u32 = 65534;

/// Root may write everywhere: run `action` in a thread that is not root.
fn as_ordinary_user<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if geteuid().is_root() {
                let nobody = Uid::from_raw(NOBODY);
                set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            action()
        });
        thread.join().unwrap()
    })
}

fn give_to_ordinary_user(path: &Path) {
    if geteuid().is_root() {
        chown(path, Some(NOBODY), None).unwrap();
    }
}
