//! A guest that is parked, gets warm, and becomes its sandbox later.

use std::time::Duration;

use matchlock_wire::{Exec, ExitKind, Note, Park, REHEARSAL, Request, RootDisks, Warm};

use crate::{
    commands_are_confined, e2fsck,
    machine::{Image, Story, Vm, distribution},
    names_are_taken, the_root_is_the_images_alone,
};

const ROOT: RootDisks = RootDisks { lower: 0, upper: 1 };

fn with_rehearsal(image: Image) -> Image {
    image.file(REHEARSAL.trim_start_matches('/'), matchlock_vmm::GUEST, 0o755);
    image
}

impl Vm {
    fn park(&mut self, privileged: bool) {
        assert_eq!(self.ask(&Request::Park(Park { root: ROOT, privileged, network: None })).notes, [Note::Done]);
    }

    fn warm(&mut self, image: bool) -> Story {
        self.ask(&Request::Warm(Warm { entropy: [5; 32], root: ROOT, image }))
    }
}

fn refusal(story: &Story) -> &str {
    let Some(Note::Failed(failure)) = story.notes.last() else { panic!("{story:?}") };
    &failure.message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_with_its_image_runs_it_before_it_is_a_sandbox() {
    let mut vm = Vm::boot(&with_rehearsal(distribution()), &[]).await;
    let too_early = "only a guest that is parked gets warm, and once";
    assert_eq!(refusal(&vm.warm(true)), too_early);
    vm.park(false);
    assert_eq!(refusal(&vm.exec(&["true"])), "the sandbox has not been started");
    assert_eq!(vm.warm(true).notes, [Note::Done]);
    assert_eq!(refusal(&vm.warm(false)), too_early);

    commands_are_confined(&mut vm);
    assert_eq!(vm.shell("cat /etc/hosts"), "1.2.3.4 from-the-image\n", "it has no name yet");
    let left = vm.shell("(trap '' TERM; sleep 1000) & echo $!");
    let left = left.trim();
    let argv = ["sleep", "1000"].map(Vec::from).to_vec();
    let running = vm.mux.open(&Request::Exec(Exec { argv, ..Exec::default() })).expect("a small request");
    assert_eq!(refusal(&vm.try_start(|_| ())), "a command from before the start still runs");
    vm.mux.end(running);
    vm.follow(running);

    assert_eq!(vm.shell(&format!("kill -0 {left} && echo lives")), "lives\n");
    vm.start(|_| ());
    let looked = vm.shell(&format!("grep -l ^sleep /proc/[0-9]*/comm; kill -0 {left} 2> /dev/null || echo gone"));
    assert_eq!(looked, "gone\n", "nothing of before is left");
    names_are_taken(&mut vm);
    the_root_is_the_images_alone(&mut vm);
    commands_are_confined(&mut vm);
    let left = vm.power_off(Duration::from_secs(5)).await;
    assert_eq!(e2fsck(&left.writable), (true, "clean".to_owned()));
}

/// That its image may be another one by then is for those to test who can put one there.
async fn a_guest_is_warm_and_enters_its_image_then(image: Image, privileged: bool) -> Vm {
    let mut vm = Vm::boot(&with_rehearsal(image), &[]).await;
    vm.park(privileged);
    assert_eq!(vm.warm(false).notes, [Note::Done]);
    let story = vm.exec(&["/init"]);
    assert!(matches!(story.notes[..], [Note::Started { .. }, Note::Exited(ExitKind::Code(0))]), "{story:?}");
    assert!(refusal(&vm.exec(&[REHEARSAL])).contains("no such file"), "it is not in the image");
    vm.start(|start| start.privileged = privileged);
    names_are_taken(&mut vm);
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_warm_without_looking_at_its_image() {
    let mut vm = a_guest_is_warm_and_enters_its_image_then(distribution(), false).await;
    the_root_is_the_images_alone(&mut vm);
    commands_are_confined(&mut vm);
    let left = vm.power_off(Duration::from_secs(5)).await;
    assert_eq!(e2fsck(&left.writable), (true, "clean".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_its_image_gets_warm_with_all_rights_too() {
    let image = distribution();
    image.file("etc/hostname", "from the image\n", 0o644);
    let mut vm = a_guest_is_warm_and_enters_its_image_then(image, true).await;
    assert_eq!(vm.shell("mount -t tmpfs none /tmp && grep -c ' /tmp tmpfs' /proc/mounts"), "1\n");
    vm.power_off(Duration::ZERO).await;
}
