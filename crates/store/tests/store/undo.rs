//! Undo rows, replayed after any crash and any number of times.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use matchlock_model::Phase;
use matchlock_store::{Action, Outcome, Reconciled, SandboxStore, Status, StoreError, is_alive};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::support::{dead, home, id, idle, register, register_for};

/// Something that a sandbox takes, inside of something that it took before.
#[derive(Clone, Debug)]
enum Taken {
    Folder(Index),
    File(Index),
    LinkToOutside(Index),
}

fn taken() -> impl Strategy<Value = Taken> {
    prop_oneof![
        any::<Index>().prop_map(Taken::Folder),
        any::<Index>().prop_map(Taken::File),
        any::<Index>().prop_map(Taken::LinkToOutside),
    ]
}

/// The undo row and the effect of taking `thing` as number `number`.
fn plan(thing: &Taken, number: usize, folders: &mut Vec<PathBuf>) -> Action {
    let (Taken::Folder(parent) | Taken::File(parent) | Taken::LinkToOutside(parent)) = thing;
    let path = parent.get(folders).join(number.to_string());
    if matches!(thing, Taken::Folder(_)) {
        folders.push(path.clone());
        Action::RemoveDir { path }
    } else {
        Action::RemoveFile { path }
    }
}

fn take(thing: &Taken, action: &Action, outside: &Path) {
    let (Action::RemoveDir { path } | Action::RemoveFile { path }) = action else { unreachable!() };
    match thing {
        Taken::Folder(_) => fs::create_dir(path).unwrap(),
        Taken::File(_) => fs::write(path, "content").unwrap(),
        Taken::LinkToOutside(_) => symlink(outside, path).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pushes and effects alternate; the crash comes after `crash` of them, and again in the middle of the replay.
    #[test]
    fn whatever_was_begun_is_given_back(
        things in vec(taken(), 0..10),
        crash in any::<Index>(),
        replayed_before_second_crash in any::<Index>(),
    ) {
        let (home, layout) = home();
        let outside = home.path().join("precious");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "not ours").unwrap();
        let folder = layout.vm(&id(1)).dir().to_owned();
        fs::create_dir_all(layout.vms()).unwrap();
        let first = Action::RemoveDir { path: folder.clone() };

        let mut store = SandboxStore::open(&layout).unwrap();
        register_for(&mut store, &id(1), &dead(), &[first]).unwrap();
        let mut left = crash.index(2 * things.len() + 2);
        let mut go_on = || { let more = left > 0; left = left.saturating_sub(1); more };
        let mut folders = vec![folder.clone()];
        if go_on() {
            fs::create_dir(&folder).unwrap();
            for (number, thing) in things.iter().enumerate() {
                let action = plan(thing, number, &mut folders);
                if !go_on() { break }
                store.push_undo(&id(1), &action).unwrap();
                if !go_on() { break }
                take(thing, &action, &outside);
            }
        }
        drop(store);

        let mut store = SandboxStore::open(&layout).unwrap();
        let owed = store.owed(&id(1)).unwrap();
        prop_assert!(owed.is_sorted_by(|a, b| a.seq > b.seq));
        for owed in &owed[..replayed_before_second_crash.index(owed.len() + 1)] {
            prop_assert!(!matches!(owed.action.perform(&[&layout.vms()]), Outcome::Failed(_)));
        }

        let existed = folder.exists();
        let released = store.release(&id(1)).unwrap();
        prop_assert!(released.failed.is_empty());
        prop_assert_eq!(existed, !released.cleaned.is_empty());
        prop_assert!(!folder.exists());
        prop_assert!(store.owed(&id(1)).unwrap().is_empty());
        prop_assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "not ours");

        let records = store.history(&id(1)).unwrap();
        prop_assert_eq!(records.last().unwrap().phase, Phase::Cleaned);
        let again = store.release(&id(1)).unwrap();
        prop_assert!(again.cleaned.is_empty() && again.failed.is_empty());
        prop_assert_eq!(store.history(&id(1)).unwrap(), records);
    }
}

#[test]
fn nothing_outside_the_sandbox_folders_is_removed() {
    let (home, layout) = home();
    let precious = home.path().join("precious");
    fs::create_dir_all(&precious).unwrap();
    let vms = layout.vms();
    for path in [
        precious.clone(),
        vms.clone(),
        vms.join("../../precious"),
        vms.join("vm-00000001/../../../precious"),
        PathBuf::from("precious"),
        PathBuf::from("/"),
        PathBuf::new(),
    ] {
        for action in [Action::RemoveDir { path: path.clone() }, Action::RemoveFile { path: path.clone() }] {
            assert!(matches!(action.perform(&[&vms]), Outcome::Failed(_)), "{}", path.display());
        }
    }
    assert!(precious.exists());
}

#[test]
fn what_fails_stays_owed_is_named_and_succeeds_later() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    let vm = layout.vm(&id(1));
    register_for(&mut store, &id(1), &dead(), &[Action::RemoveDir { path: vm.dir().to_owned() }]).unwrap();
    store.push_undo(&id(1), &Action::RemoveFile { path: vm.upper() }).unwrap();
    // A folder where a file should be cannot be unlinked.
    fs::create_dir_all(vm.upper()).unwrap();
    let outside = Action::RemoveFile { path: "/nowhere/of/ours".into() };
    store.push_undo(&id(1), &outside).unwrap();

    let report = store.reconcile(&id(1), false).unwrap();
    let Reconciled::Released(released) = report.reconciled else { panic!("it is dead") };
    assert_eq!(released.cleaned, ["dir_remove:vm-00000001"]);
    let failed: Vec<&str> = released.failed.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(failed, ["file_remove:ours", "file_remove:upper.ext4"]);
    let record = store.history(&id(1)).unwrap().pop().unwrap();
    assert_eq!(record.phase, Phase::CleanupFailed);
    assert!(record.details.last_error.contains("/nowhere/of/ours is not inside"), "{}", record.details.last_error);
    assert_eq!(store.owed(&id(1)).unwrap().len(), 2);
    assert!(matches!(store.discard(&id(1)), Err(StoreError::Unreleased(_))));
    assert_eq!(store.remove(&id(1)).unwrap().failed.len(), 1);
    assert_eq!(store.get(&id(1)).unwrap().status, Status::Crashed);
}

#[test]
fn a_process_is_ended_before_its_files_are_taken_away() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    let vm = layout.vm(&id(1));
    fs::create_dir_all(layout.vms()).unwrap();
    register_for(&mut store, &id(1), &dead(), &[Action::RemoveDir { path: vm.dir().to_owned() }]).unwrap();
    fs::create_dir(vm.dir()).unwrap();
    let (mut child, process) = idle();
    store.push_undo(&id(1), &Action::EndProcess { process: process.clone() }).unwrap();

    let reports = store.reconcile_all(false).unwrap();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    let Reconciled::Released(released) = &report.reconciled else { panic!("it is dead") };
    assert_eq!(released.cleaned, ["dir_remove:vm-00000001".to_owned(), format!("process_end:{}", process.pid)]);
    assert!(!is_alive(&process).unwrap());
    assert!(!vm.dir().exists());
    child.wait().unwrap();
}

#[test]
fn a_row_cannot_be_deleted_while_it_owes() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[Action::RemoveDir { path: layout.vm(&id(1)).dir().to_owned() }]).unwrap();
    let other = rusqlite::Connection::open(layout.database()).unwrap();
    other.pragma_update(None, "foreign_keys", "ON").unwrap();
    assert!(other.execute("DELETE FROM vms", ()).is_err());
    assert!(matches!(store.push_undo(&id(2), &Action::RemoveFile { path: "/x".into() }), Err(StoreError::NotFound(_))));
}
