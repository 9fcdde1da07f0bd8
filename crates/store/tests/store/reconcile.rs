//! Reconciling after a supervisor was killed, beside living ones, and without a row.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::symlink,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use matchlock_model::{Phase, ProcessIdentity, SandboxId, StateLayout};
use matchlock_store::{
    Action, Reconciled, Released, Report, SandboxStore, Status, StoreError, claim_folder, identity_of, is_alive,
    move_aside,
};

use crate::support::{another_process, dead, home, id, idle, register, register_for, told_home};

/// A supervisor in a process of its own, stopped between two steps of its life.
struct Supervisor {
    process: Child,
    go_on: ChildStdin,
    _output: BufReader<ChildStdout>,
    /// What it has started in the place of a virtual machine.
    vmm: Option<ProcessIdentity>,
}

/// A supervisor that was let take `steps` steps.
fn supervisor(layout: &StateLayout, steps: usize) -> Supervisor {
    let home = layout.root().parent().unwrap();
    let mut process =
        another_process("reconcile::a_supervisor_killed_anywhere_leaves_nothing_after_gc_and_prune", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let mut go_on = process.stdin.take().unwrap();
    let mut vmm = None;
    let mut output = BufReader::new(process.stdout.take().unwrap());
    // The first line of the test harness ends in the first of ours.
    let said = output.by_ref().lines().map(Result::unwrap).filter(|line| line.contains("step "));
    for (taken, line) in said.take(steps + 1).enumerate() {
        if let Some((_, pid)) = line.split_once("step vmm ") {
            vmm = identity_of(pid.parse().unwrap()).unwrap();
        }
        if taken < steps {
            writeln!(go_on).unwrap();
        }
    }
    Supervisor { process, go_on, _output: output, vmm }
}

/// What a supervisor does, waiting for a line after each step.
fn live(layout: &StateLayout) {
    let wait = |what: String| {
        println!("step {what}");
        assert_ne!(std::io::stdin().read_line(&mut String::new()).unwrap(), 0, "the test is over");
    };
    let vm = layout.vm(&id(1));
    wait("begin".to_owned());
    let mut store = SandboxStore::open(layout).unwrap();
    wait("open".to_owned());
    register(&mut store, &id(1), &[Action::RemoveDir { path: vm.dir().to_owned() }]).unwrap();
    wait("register".to_owned());
    let claim = claim_folder(vm.dir()).unwrap();
    wait("claim".to_owned());
    store.push_undo(&id(1), &Action::RemoveFile { path: vm.upper() }).unwrap();
    wait("push".to_owned());
    fs::write(vm.upper(), "disk").unwrap();
    wait("upper".to_owned());
    store.advance(&id(1), &[Phase::Created, Phase::Starting], |_| {}).unwrap();
    let mut vmm = Command::new("sleep").arg("300").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let process = identity_of(vmm.id().try_into().unwrap()).unwrap().unwrap();
    store.push_undo(&id(1), &Action::EndProcess { process }).unwrap();
    wait(format!("vmm {}", vmm.id()));
    store.advance(&id(1), &[Phase::Running], |_| {}).unwrap();
    wait("running".to_owned());
    store.advance(&id(1), &[Phase::Stopping], |_| {}).unwrap();
    wait("stopping".to_owned());
    for owed in store.owed(&id(1)).unwrap() {
        let _ = owed.action.perform(&[&layout.vms()]);
        wait(format!("undone {}", owed.seq));
    }
    store.release(&id(1)).unwrap();
    vmm.wait().unwrap();
    wait("released".to_owned());
    store.discard(&id(1)).unwrap();
    drop(claim);
    println!("step end");
}

#[test]
fn a_supervisor_killed_anywhere_leaves_nothing_after_gc_and_prune() {
    const STEPS: usize = 14;
    // A real virtual machine dies with its supervisor until its row is written; the one here does not.
    const BEFORE_VMM: usize = 5;
    if let Some(layout) = told_home() {
        return live(&layout);
    }
    for (steps, in_the_next) in (0..STEPS).flat_map(|steps| [(steps, false), (steps, true)]) {
        if in_the_next && (steps == BEFORE_VMM || steps == STEPS - 1) {
            continue;
        }
        let (_home, layout) = home();
        let mut supervisor = supervisor(&layout, steps);
        if in_the_next {
            writeln!(supervisor.go_on).unwrap();
        }
        supervisor.process.kill().unwrap();
        supervisor.process.wait().unwrap();

        let mut store = SandboxStore::open(&layout).unwrap();
        let before = store.list().unwrap();
        assert!(before.iter().all(|sandbox| sandbox.status != Status::Running), "after {steps} steps: {before:?}");
        for report in store.reconcile_all(false).unwrap() {
            let Reconciled::Released(Released { failed, .. }) = report.reconciled else { panic!("it is dead") };
            assert!(failed.is_empty(), "after {steps} steps: {failed:?}");
        }
        assert!(supervisor.vmm.is_none_or(|vmm| !is_alive(&vmm).unwrap()), "after {steps} steps");
        assert!(!layout.vm(&id(1)).dir().exists(), "after {steps} steps");

        for report in store.reconcile_all(false).unwrap() {
            assert!(
                matches!(report.reconciled, Reconciled::Released(r) if r.cleaned.is_empty() && r.failed.is_empty())
            );
        }
        for sandbox in store.list().unwrap() {
            store.remove(&sandbox.id).unwrap();
        }
        assert!(store.list().unwrap().is_empty());
        if !in_the_next {
            assert_eq!(before.len(), usize::from((2..STEPS - 1).contains(&steps)), "after {steps} steps");
        }
    }
}

#[test]
fn a_living_sandbox_is_left_alone_unless_ending_it_was_asked_for() {
    let (_home, layout) = home();
    let mut supervisor = supervisor(&layout, 7);
    let vmm = supervisor.vmm.take().unwrap();
    let mut store = SandboxStore::open(&layout).unwrap();
    let [report] = &store.reconcile_all(false).unwrap()[..] else { panic!("one sandbox") };
    assert!(matches!(report.reconciled, Reconciled::Running));
    assert!(matches!(store.remove(&id(1)), Err(StoreError::Running(_))));
    assert!(is_alive(&vmm).unwrap() && layout.vm(&id(1)).upper().exists());

    let [report] = &store.reconcile_all(true).unwrap()[..] else { panic!("one sandbox") };
    let Reconciled::Released(released) = &report.reconciled else { panic!("it was to be ended") };
    let end = format!("process_end:{}", vmm.pid);
    assert_eq!(released.cleaned, ["dir_remove:vm-00000001", "file_remove:upper.ext4", end.as_str()]);
    supervisor.process.wait().unwrap();
    assert!(!is_alive(&vmm).unwrap() && !layout.vm(&id(1)).dir().exists());
}

#[test]
fn folders_without_a_row_are_removed_unless_a_supervisor_holds_them() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    assert!(store.reconcile_all(false).unwrap().is_empty());
    let claim = claim_folder(layout.vm(&id(1)).dir()).unwrap();
    fs::create_dir_all(layout.vm(&id(2)).dir().join("logs")).unwrap();
    fs::create_dir_all(layout.vms().join("not-an-id")).unwrap();
    fs::write(layout.vms().join("state.db"), "of an older version").unwrap();
    register(&mut store, &id(3), &[]).unwrap();
    fs::create_dir(layout.vm(&id(3)).dir()).unwrap();

    let mut seen: Vec<(SandboxId, bool)> = store
        .reconcile_all(false)
        .unwrap()
        .into_iter()
        .map(|report| (report.id, matches!(report.reconciled, Reconciled::Running)))
        .collect();
    seen.sort();
    assert_eq!(seen, [(id(1), true), (id(2), false), (id(3), true)]);
    assert!(!layout.vm(&id(2)).dir().exists());
    assert!(layout.vm(&id(1)).dir().exists() && layout.vm(&id(3)).dir().exists());
    assert!(layout.vms().join("not-an-id").exists() && layout.vms().join("state.db").exists());

    drop(claim);
    store.reconcile_all(false).unwrap();
    assert!(!layout.vm(&id(1)).dir().exists());
}

#[test]
fn a_database_moved_aside_under_a_living_sandbox_does_not_cost_its_folder() {
    let (_home, layout) = home();
    let mut supervisor = supervisor(&layout, 4);
    move_aside(&layout.database()).unwrap();
    let mut store = SandboxStore::open(&layout).unwrap();
    let [report] = &store.reconcile_all(true).unwrap()[..] else { panic!("one folder") };
    assert!(matches!(report.reconciled, Reconciled::Running));
    supervisor.process.kill().unwrap();
    supervisor.process.wait().unwrap();
    store.reconcile_all(false).unwrap();
    assert!(!layout.vm(&id(1)).dir().exists());
}

#[test]
fn one_that_cannot_be_judged_keeps_nobody_from_the_others() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    for number in 1..=3 {
        register_for(&mut store, &id(number), &dead(), &[]).unwrap();
    }
    // A folder that cannot be opened, as another user's; and one that no row speaks of.
    for number in [2, 4] {
        claim_folder(layout.vm(&id(number)).dir()).unwrap();
        fs::remove_dir(layout.vm(&id(number)).dir()).unwrap();
        symlink(layout.vm(&id(number)).dir(), layout.vm(&id(number)).dir()).unwrap();
    }
    let shown: Vec<_> = store.list().unwrap().into_iter().map(|sandbox| (sandbox.id, sandbox.status)).collect();
    assert_eq!(shown, [(id(3), Status::Crashed), (id(2), Status::Unknown), (id(1), Status::Crashed)]);
    assert_eq!(store.get(&id(2)).unwrap().status, Status::Unknown);

    for force in [false, true] {
        let reports = store.reconcile_all(force).unwrap();
        assert_eq!(reports.len(), 4);
        for Report { id, reconciled } in reports {
            match reconciled {
                Reconciled::Released(_) => assert!(!layout.vm(&id).dir().is_symlink(), "{id}"),
                Reconciled::Unknown(StoreError::Unreadable { path, .. }) => {
                    assert!(path == layout.vm(&id).dir() && path.is_symlink(), "{id}");
                }
                other => panic!("{id}: {other:?}"),
            }
        }
    }
    assert!(matches!(store.remove(&id(2)), Err(StoreError::Unreadable { .. })));
    store.remove(&id(1)).unwrap();
    fs::remove_file(layout.vm(&id(2)).dir()).unwrap();
    assert_eq!(store.get(&id(2)).unwrap().status, Status::Crashed);
}

#[test]
fn a_held_folder_speaks_for_a_supervisor_that_cannot_be_seen() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    let (mut child, mut elsewhere) = idle();
    elsewhere.start_time += 1;
    register_for(&mut store, &id(1), &elsewhere, &[]).unwrap();
    let claim = claim_folder(layout.vm(&id(1)).dir()).unwrap();
    assert_eq!(store.get(&id(1)).unwrap().status, Status::Running);
    assert!(matches!(store.reconcile(&id(1), true).unwrap().reconciled, Reconciled::Running));
    drop(claim);
    assert_eq!(store.get(&id(1)).unwrap().status, Status::Crashed);
    child.kill().unwrap();
    child.wait().unwrap();
}
