//! Rows and records of sandboxes, on real files and from several processes.

use std::process::{Command, Stdio};

use crate::support::{another_process, dead, home, id, register, register_for, tables, told_home};
use matchlock_model::{Phase, PhaseError, ProcessIdentity, SandboxId, StateLayout};
use matchlock_store::{Action, SandboxStore, Status, StoreError, own_identity};
use rusqlite::Connection;

#[test]
fn a_sandbox_comes_back_as_it_was_registered() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[]).unwrap();
    let sandbox = SandboxStore::open(&layout).unwrap().get(&id(1)).unwrap();
    assert_eq!(sandbox.status, Status::Running);
    assert_eq!(sandbox.owner, Some(own_identity().unwrap()));
    assert_eq!(sandbox.image, "debian:bookworm");
    assert_eq!(sandbox.config["env"]["KEY"], "value");
    assert!(matches!(store.get(&id(2)), Err(StoreError::NotFound(_))));
}

#[test]
fn an_id_is_taken_while_its_row_its_history_or_its_folder_is_there() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    let taken = |result: Result<(), StoreError>| matches!(result, Err(StoreError::IdTaken(_)));
    register(&mut store, &id(1), &[]).unwrap();
    assert!(taken(register(&mut store, &id(1), &[])));
    store.release(&id(1)).unwrap();
    store.discard(&id(1)).unwrap();
    assert!(taken(register(&mut store, &id(1), &[])));

    std::fs::create_dir_all(layout.vm(&id(2)).dir()).unwrap();
    assert!(taken(register(&mut store, &id(2), &[])));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn sandboxes_are_listed_the_newest_first_and_the_dead_as_crashed() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    let me = own_identity().unwrap();
    let reused = ProcessIdentity { start_time: me.start_time - 1, ..me.clone() };
    let rebooted = ProcessIdentity { boot_id: "earlier".to_owned(), ..me.clone() };
    for (number, owner) in [(3, &me), (1, &dead()), (4, &reused), (2, &rebooted)] {
        register_for(&mut store, &id(number), owner, &[]).unwrap();
    }
    let expected = [(2, Status::Crashed), (4, Status::Crashed), (1, Status::Crashed), (3, Status::Running)];
    let seen: Vec<_> = store.list().unwrap().into_iter().map(|s| (s.id, s.status)).collect();
    assert_eq!(seen, expected.map(|(number, status)| (id(number), status)));

    let other = Connection::open(layout.database()).unwrap();
    let stored: String =
        other.query_row("SELECT group_concat(status) FROM vms WHERE pid <> 0", (), |row| row.get(0)).unwrap();
    assert_eq!(stored.matches("crashed").count(), 3);
    assert_eq!(store.get(&id(1)).unwrap().status, Status::Crashed);
}

#[test]
fn history_is_numbered_and_complete_and_follows_the_phases() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[]).unwrap();
    store
        .advance(&id(1), &[Phase::Created, Phase::Starting], |details| {
            details.resources.insert("rootfs_path".to_owned(), "/upper".to_owned());
        })
        .unwrap();
    store.advance(&id(1), &[Phase::Running], |_| {}).unwrap();
    let error = store.advance(&id(1), &[Phase::Stopping, Phase::Created], |_| {}).unwrap_err();
    assert!(matches!(error, StoreError::Phase(PhaseError::Transition { from: Phase::Stopping, to: Phase::Created })));
    assert!(matches!(store.advance(&id(2), &[Phase::Created], |_| {}), Err(StoreError::NotFound(_))));

    let history = store.history(&id(1)).unwrap();
    assert_eq!(history.iter().map(|r| r.version).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let phases: Vec<Phase> = history.iter().map(|r| r.phase).collect();
    assert_eq!(phases, [Phase::Creating, Phase::Created, Phase::Starting, Phase::Running]);
    let mut last = serde_json::to_value(history.last().unwrap()).unwrap();
    last["updated_at"].take();
    insta::assert_snapshot!(last, @r#"{"backend":"qemu","phase":"running","resources":{"rootfs_path":"/upper"},"updated_at":null,"version":4,"vm_id":"vm-00000001"}"#);
}

#[test]
fn a_sandbox_that_was_cleaned_is_stopped_and_has_no_process() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[]).unwrap();
    assert!(matches!(store.discard(&id(1)), Err(StoreError::Unreleased(_))));
    store.release(&id(1)).unwrap();
    let sandbox = store.get(&id(1)).unwrap();
    assert_eq!((sandbox.status, sandbox.owner), (Status::Stopped, None));
}

#[test]
fn why_it_ended_is_still_said_when_all_is_given_back() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[]).unwrap();
    let lived = [Phase::Created, Phase::Starting, Phase::Running, Phase::Stopping];
    store.advance(&id(1), &lived, |details| details.last_error = "the machine died".to_owned()).unwrap();
    store.release(&id(1)).unwrap();
    let last = store.history(&id(1)).unwrap().pop().unwrap();
    assert_eq!((last.phase, last.details.last_error.as_str()), (Phase::Cleaned, "the machine died"));
}

#[test]
fn the_history_of_removed_sandboxes_is_kept_and_bounded() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    for number in 0..105 {
        register(&mut store, &id(number), &[]).unwrap();
        if number != 3 {
            store.release(&id(number)).unwrap();
            store.discard(&id(number)).unwrap();
        }
    }
    let records = |number| store.history(&id(number)).unwrap().len();
    assert_eq!((records(0), records(1), records(2), records(4)), (0, 0, 0, 0));
    assert_eq!((records(3), records(5), records(104)), (1, 3, 3));
}

#[test]
fn the_documented_queries_work_in_another_program() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    register(&mut store, &id(1), &[]).unwrap();
    let sqlite3 = |sql: &str| {
        let output = Command::new("sqlite3").arg(layout.database()).arg(sql).output().expect("install sqlite3");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(sqlite3("SELECT id, status, pid FROM vms"), format!("vm-00000001|running|{}\n", std::process::id()));
    let query = "SELECT version, phase, last_error FROM vm_lifecycle WHERE vm_id='vm-00000001' ORDER BY version";
    assert_eq!(sqlite3(query), "1|creating|\n");
    assert_eq!(sqlite3("SELECT vm_id, octet, subnet FROM subnet_allocations"), "");
    sqlite3("DELETE FROM subnet_allocations WHERE vm_id NOT IN (SELECT id FROM vms WHERE status='running')");

    // The log is cut while this process has it open, and goes on.
    assert_eq!(sqlite3("PRAGMA wal_checkpoint(TRUNCATE)").split('|').next(), Some("0"));
    store.advance(&id(1), &[Phase::Created], |_| {}).unwrap();
    assert_eq!(sqlite3(query), "1|creating|\n2|created|\n");
    assert_eq!(sqlite3("PRAGMA integrity_check"), "ok\n");
}

#[test]
fn the_tables_are_the_documented_ones() {
    let (_home, layout) = home();
    SandboxStore::open(&layout).unwrap();
    insta::assert_snapshot!(tables(&layout.database()), @r"
    schema_migrations: module TEXT not null pk1, version INTEGER not null pk2, name TEXT not null, applied_at TEXT not null
    subnet_allocations: vm_id TEXT pk1, octet INTEGER not null, gateway_ip TEXT not null, guest_ip TEXT not null, subnet TEXT not null, created_at TEXT not null
    undo: vm_id TEXT not null pk1, seq INTEGER not null pk2, action_json TEXT not null, created_at TEXT not null
    vm_lifecycle: vm_id TEXT not null pk1, version INTEGER not null pk2, backend TEXT not null = '', phase TEXT not null, updated_at TEXT not null, last_error TEXT not null = '', resources_json TEXT not null = '{}', cleanup_json TEXT not null = '{}'
    vm_lifecycle_head: vm_id TEXT pk1, last_version INTEGER not null
    vms: id TEXT pk1, pid INTEGER not null = 0, status TEXT not null, image TEXT not null = '', config_json BLOB, created_at TEXT not null, updated_at TEXT not null, pid_start_time INTEGER not null = 0, boot_id TEXT not null = ''
    ");
}

#[test]
fn processes_that_open_register_and_append_at_once_lose_nothing() {
    const PROCESSES: u32 = 4;
    if let Some(layout) = told_home() {
        return register_and_append(&layout);
    }
    let (home, layout) = home();
    let children: Vec<_> = (0..PROCESSES)
        .map(|n| {
            another_process("sandboxes::processes_that_open_register_and_append_at_once_lose_nothing", home.path())
                .env("TEST_NUMBER", n.to_string())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut store = SandboxStore::open(&layout).unwrap();
    assert_eq!(store.list().unwrap().len(), usize::try_from(PROCESSES * 10).unwrap() + 1);
    // Every process appended to this one 20 times, and whoever came first registered it.
    let history = store.history(&id(0xffff)).unwrap();
    let versions: Vec<i64> = history.iter().map(|record| record.version).collect();
    assert_eq!(versions, (1..=i64::from(PROCESSES) * 20 + 1).collect::<Vec<_>>());
    let errors: std::collections::BTreeSet<&str> = history.iter().map(|r| r.details.last_error.as_str()).collect();
    assert_eq!(errors.len(), usize::try_from(PROCESSES).unwrap() * 20 + 1);
}

/// What each of the processes does.
fn register_and_append(layout: &StateLayout) {
    let number: u32 = std::env::var("TEST_NUMBER").unwrap().parse().unwrap();
    let mut store = SandboxStore::open(layout).unwrap();
    let shared: SandboxId = id(0xffff);
    match register(&mut store, &shared, &[]) {
        Ok(()) | Err(StoreError::IdTaken(_)) => {}
        Err(error) => panic!("{error}"),
    }
    for n in 0..10 {
        let own = id(number * 100 + n);
        register(&mut store, &own, &[Action::RemoveDir { path: layout.vm(&own).dir().to_owned() }]).unwrap();
    }
    for n in 0..20 {
        store.advance(&shared, &[Phase::Creating], |details| details.last_error = format!("{number}/{n}")).unwrap();
    }
}
