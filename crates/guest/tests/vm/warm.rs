//! A guest that is parked, gets warm, and becomes its sandbox later.

use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

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

/// What stands for the image while there is none: folders where a distribution has them, and files in their places.
fn stand_in() -> Image {
    let image = with_rehearsal(Image::new());
    for folder in ["proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(image.path(folder)).expect("a folder of the image");
    }
    for name in ["hostname", "hosts", "resolv.conf"] {
        image.file(&format!("etc/{name}"), "", 0o644);
    }
    image.file("bin/sh", "the stand-in's", 0o644);
    image.file("filler", "x".repeat(8 << 20), 0o644); // so that it is longer than those that come in its place
    image
}

/// Write `image` over the one in `file`.
fn overwrite(file: &Path, image: &Path) {
    let bytes = fs::read(image).expect("an image");
    let file = fs::File::options().write(true).open(file).expect("the image's file");
    assert!(file.metadata().expect("its size").len() >= bytes.len() as u64, "the disk keeps its size");
    file.write_all_at(&bytes, 0).expect("room for it");
}

impl Vm {
    fn park(&mut self, privileged: bool) {
        assert_eq!(self.ask(&Request::Park(Park { root: ROOT, privileged })).notes, [Note::Done]);
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

/// Nothing of the image that was on the disk before is seen, though the disk is the same to the guest.
async fn a_guest_is_warm_and_gets_its_image_then(image: &Image, privileged: bool) -> Vm {
    let stand_in = stand_in();
    let mut vm = Vm::boot(&stand_in, &[]).await;
    vm.park(privileged);
    assert_eq!(vm.warm(false).notes, [Note::Done]);
    let story = vm.exec(&["/init"]);
    assert!(matches!(story.notes[..], [Note::Started { .. }, Note::Exited(ExitKind::Code(0))]), "{story:?}");
    assert!(refusal(&vm.exec(&[REHEARSAL])).contains("no such file"), "no image is mounted");

    overwrite(&stand_in.built(), &image.build());
    vm.start(|start| start.privileged = privileged);
    names_are_taken(&mut vm);
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_its_image_keeps_nothing_of_the_one_before() {
    let mut vm = a_guest_is_warm_and_gets_its_image_then(&distribution(), false).await;
    the_root_is_the_images_alone(&mut vm);
    commands_are_confined(&mut vm);
    let left = vm.power_off(Duration::from_secs(5)).await;
    assert_eq!(e2fsck(&left.writable), (true, "clean".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_its_image_gets_warm_with_all_rights_too() {
    let image = distribution();
    image.file("etc/hostname", "from the image\n", 0o644);
    let mut vm = a_guest_is_warm_and_gets_its_image_then(&image, true).await;
    assert_eq!(vm.shell("mount -t tmpfs none /tmp && grep -c ' /tmp tmpfs' /proc/mounts"), "1\n");
    vm.power_off(Duration::ZERO).await;
}
