//! What the tests of the sandbox database share.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use matchlock_model::{ImageConfig, Network, ProcessIdentity, Resources, SandboxId, SandboxSpec, StateLayout};
use matchlock_store::{Action, Details, Registration, SandboxStore, StoreError, identity_of, own_identity};
use rusqlite::Connection;
use tempfile::TempDir;

/// A home that is removed at the end of the test.
pub(crate) fn home() -> (TempDir, StateLayout) {
    let home = tempfile::tempdir().unwrap();
    let layout = StateLayout::new(home.path());
    (home, layout)
}

/// The id with this number.
pub(crate) fn id(number: u32) -> SandboxId {
    SandboxId::from_random(number.to_be_bytes())
}

/// Register a sandbox whose supervisor is `owner`.
pub(crate) fn register_for(
    store: &mut SandboxStore,
    id: &SandboxId,
    owner: &ProcessIdentity,
    undo: &[Action],
) -> Result<(), StoreError> {
    let spec = SandboxSpec {
        id: id.clone(),
        image: "debian:bookworm".to_owned(),
        privileged: false,
        resources: Resources::default(),
        network: Network::default(),
        env: [("KEY".to_owned(), "value".to_owned())].into(),
        extra_disks: Vec::new(),
        image_config: ImageConfig::default(),
    };
    let details = Details { backend: "qemu".to_owned(), ..Details::default() };
    store.register(&Registration { spec: &spec, owner, details, undo })
}

/// Register a sandbox whose supervisor is this process.
pub(crate) fn register(store: &mut SandboxStore, id: &SandboxId, undo: &[Action]) -> Result<(), StoreError> {
    register_for(store, id, &own_identity().unwrap(), undo)
}

/// A process that does nothing until it is ended.
pub(crate) fn idle() -> (Child, ProcessIdentity) {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let identity = identity_of(child.id().try_into().unwrap()).unwrap().unwrap();
    (child, identity)
}

/// The identity of a process that was and is no more.
pub(crate) fn dead() -> ProcessIdentity {
    let (mut child, identity) = idle();
    child.kill().unwrap();
    child.wait().unwrap();
    identity
}

/// The calling test once more, in a process of its own, where [`told_home`] tells it that it is the other one.
pub(crate) fn another_process(test: &str, home: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("TEST_HOME", home);
    command
}

/// The home that [`another_process`] gave this process; none in the test itself.
pub(crate) fn told_home() -> Option<StateLayout> {
    std::env::var_os("TEST_HOME").map(|home| StateLayout::new(home.as_ref()))
}

/// Each table's columns in order, with type and constraints, one table a line.
pub(crate) fn tables(database: &Path) -> String {
    let connection = Connection::open(database).unwrap();
    let mut rows = connection
        .prepare(
            "SELECT m.name || ': ' || group_concat(p.name || ' ' || p.type || iif(p.\"notnull\", ' not null', '')
                || iif(p.dflt_value IS NULL, '', ' = ' || p.dflt_value) || iif(p.pk, ' pk' || p.pk, ''), ', ')
             FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table' GROUP BY m.name ORDER BY m.name",
        )
        .unwrap();
    let lines: Vec<String> = rows.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    lines.join("\n")
}
