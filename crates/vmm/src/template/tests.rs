//! What may befall a template between two uses, without a machine: its files are only looked at here.

use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, CWD, Timestamps, utimensat};

use super::*;
use crate::{Accelerator, Machine};

const KHZ: Option<u64> = Some(2_400_000);

/// Longer than any test takes.
const LONG: Duration = Duration::from_hours(1);

/// A folder of templates, and the files that they are made from.
struct Place {
    dir: TempDir,
    templates: Templates,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kernel", "initramfs", "vmm"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        Self { templates: Templates::new(dir.path().join("templates")), dir }
    }

    fn machine(&self) -> Machine {
        Machine {
            vcpus: 1,
            memory_mb: 4,
            kernel: self.dir.path().join("kernel"),
            initramfs: self.dir.path().join("initramfs"),
            cmdline: Vec::new(),
            disks: Vec::new(),
            nic: None,
            console_log: None,
        }
    }

    fn recipe(&self, version: &str) -> Recipe {
        let vmm = self.dir.path().join("vmm");
        Recipe::new(&self.machine(), Accelerator::Tcg, (&vmm, version), &[], "parked".to_owned(), None).unwrap()
    }

    /// Make the template of this version of the VMM; its folder.
    fn make(&self, version: &str) -> PathBuf {
        let recipe = self.recipe(version);
        let unfinished = self.templates.begin(&recipe, KHZ).unwrap().expect("nobody else makes it");
        let (memory, mut layer) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        memory.set_len(4 * 1024 * 1024).unwrap();
        memory.write_all_at(b"memory", 2_000_000).unwrap();
        unfinished.state().unwrap().write_all(b"state").unwrap();
        layer.write_all(b"layer").unwrap();
        let contents = unfinished.copies().unwrap().fill(&memory, &layer, 100_000).unwrap();
        unfinished.publish(contents, KHZ).unwrap();
        self.folder(version)
    }

    /// What templates are made from now.
    fn sources(&self) -> [Sources; 1] {
        let path = |name| self.dir.path().join(name);
        [Sources::new(&path("vmm"), &path("kernel"), &path("initramfs")).unwrap()]
    }

    fn sweep(&self, unused_for: Duration) -> usize {
        self.templates.sweep(&self.sources(), unused_for).unwrap()
    }

    fn folder(&self, version: &str) -> PathBuf {
        self.templates.folder.join(self.recipe(version).key())
    }

    fn find(&self, version: &str) -> Result<Template, TemplateError> {
        self.templates.find(&self.recipe(version), KHZ)
    }

    /// Why the template of this version is damaged.
    fn damage(&self, version: &str) -> String {
        match self.find(version) {
            Err(TemplateError::Damaged { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Everything in the folder of templates but its lock.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.templates.folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name != ".lock").collect()
    }
}

#[test]
fn a_file_that_changed_is_told_even_if_its_times_were_put_back() {
    for (name, at) in [(MEMORY, 2_000_003), (MEMORY, 3_999_999), (STATE, 0), (LAYER, 4), (LAYER, 99_999)] {
        let place = Place::new();
        let path = place.make("7.2").join(name);
        place.find("7.2").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let before = file.metadata().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), before.modified().unwrap());
        assert_eq!(place.damage("7.2"), format!("{name} has changed"), "a bit of byte {at}");
        assert_eq!(place.damage("7.2"), format!("{name} has changed"), "and that is not remembered as sound");
        file.write_all_at(&byte, at).unwrap();
        place.find("7.2").unwrap();
    }
}

#[test]
fn a_file_that_was_cut_short_or_is_gone_is_told() {
    for name in [MEMORY, STATE, LAYER] {
        let place = Place::new();
        let path = place.make("7.2").join(name);
        let len = fs::metadata(&path).unwrap().len();
        for shorter in [len - 1, 0] {
            File::options().write(true).open(&path).unwrap().set_len(shorter).unwrap();
            assert_eq!(place.damage("7.2"), format!("{name} has changed"));
        }
        fs::remove_file(&path).unwrap();
        assert!(place.damage("7.2").contains("No such file"));
    }
}

#[test]
fn a_recipe_that_cannot_be_read_or_is_anothers_is_told_and_the_template_made_anew() {
    let place = Place::new();
    let other = fs::read(place.make("10.0").join(RECIPE)).unwrap();
    let folder = place.make("7.2");
    let recipe = folder.join(RECIPE);
    let sound = fs::read(&recipe).unwrap();
    for text in [&b""[..], b"{}", b"\xff\x00", &sound[..sound.len() / 2], &other] {
        fs::write(&recipe, text).unwrap();
        assert!(!place.damage("7.2").is_empty());
    }
    // What cannot be read, by root either.
    fs::remove_file(&recipe).unwrap();
    fs::create_dir(&recipe).unwrap();
    assert!(place.damage("7.2").contains("directory"));
    let listed = place.templates.list().unwrap();
    assert_eq!(
        listed.iter().filter(|listed| listed.recipe.is_none() && !listed.is_current(&place.sources())).count(),
        1
    );
    place.make("7.2");
    place.find("7.2").unwrap();
}

#[test]
fn another_vmm_kernel_or_clock_is_another_template() {
    let place = Place::new();
    place.make("7.2");
    assert!(matches!(place.find("10.0"), Err(TemplateError::Missing)));
    let recipe = place.recipe("7.2");
    assert!(matches!(place.templates.find(&recipe, Some(3_000_000)), Err(TemplateError::OtherClock { .. })));
    assert!(matches!(place.templates.find(&recipe, None), Err(TemplateError::OtherClock { .. })));
    // A file of another size, and one that only has another time.
    for (name, text) in [("kernel", "another kernel"), ("initramfs", "initramfs"), ("vmm", "a newer one")] {
        let place = Place::new();
        place.make("7.2");
        assert!(place.templates.list().unwrap()[0].is_current(&place.sources()));
        let path = place.dir.path().join(name);
        fs::write(&path, text).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() + LONG).unwrap();
        assert!(!place.templates.list().unwrap()[0].is_current(&place.sources()), "{name}");
        assert_eq!(place.templates.sweep(&[], LONG).unwrap(), 0, "nothing is known of what templates are made from");
        assert!(matches!(place.find("7.2"), Err(TemplateError::Missing)), "{name}");
        assert_eq!(place.sweep(LONG), 1, "{name}");
        assert_eq!(place.names(), [""; 0]);
    }
}

#[test]
fn another_processor_is_another_template_where_the_guest_sees_it() {
    let place = Place::new();
    let recipe = |flags: Option<&str>| {
        let machine = place.machine();
        let vmm = place.dir.path().join("vmm");
        let flags = flags.map(str::to_owned);
        Recipe::new(&machine, Accelerator::Kvm, (&vmm, "7.2"), &[], "parked".to_owned(), flags).unwrap().key()
    };
    let keys = [recipe(None), recipe(Some("sse avx")), recipe(Some("sse"))];
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    assert_eq!(recipe(Some("sse")), keys[2]);
}

#[test]
fn a_clock_that_was_set_back_changes_nothing() {
    let place = Place::new();
    let folder = place.make("7.2");
    let future = SystemTime::now() + 1000 * LONG;
    for name in [RECIPE, CHECKED, MEMORY, STATE, LAYER] {
        File::options().write(true).open(folder.join(name)).unwrap().set_modified(future).unwrap();
    }
    assert_eq!(place.templates.list().unwrap()[0].used, future);
    assert_eq!(place.sweep(LONG), 0);
    place.find("7.2").unwrap();
    let used = place.templates.list().unwrap()[0].used;
    assert!(used < future && used.elapsed().unwrap() < LONG, "this was a use, at the time that it is");
}

#[test]
fn what_was_not_used_for_long_goes_and_leftovers_go_with_it() {
    let place = Place::new();
    assert_eq!(place.sweep(LONG), 0);
    assert!(!place.templates.folder.exists());
    let (old, new) = (place.make("7.2"), place.make("10.0"));
    let times = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: times, last_modification: times };
    utimensat(CWD, old.join(RECIPE), &times, AtFlags::empty()).unwrap();
    fs::create_dir(place.templates.folder.join("killed.tmp")).unwrap();
    fs::create_dir(place.templates.folder.join("the-users-own")).unwrap();
    assert_eq!(place.sweep(LONG), 1);
    let mut names = place.names();
    names.sort();
    assert_eq!(names, [new.file_name().unwrap().to_str().unwrap(), "the-users-own"]);
    // A use is what counts.
    assert_eq!(place.sweep(LONG), 0);
    assert_eq!(place.sweep(Duration::ZERO), 1);
}

#[test]
fn of_two_that_would_make_one_the_second_waits_and_has_it() {
    let place = Place::new();
    let unfinished = place.templates.begin(&place.recipe("7.2"), KHZ).unwrap().unwrap();
    let (templates, recipe) = (place.templates.clone(), place.recipe("7.2"));
    let second = std::thread::spawn(move || templates.begin(&recipe, KHZ).unwrap().is_none());
    drop(unfinished.state().unwrap());
    assert!(!second.is_finished());
    let empty = tempfile::tempfile().unwrap();
    let contents = unfinished.copies().unwrap().fill(&empty, &empty, 1).unwrap();
    unfinished.publish(contents, KHZ).unwrap();
    assert!(second.join().unwrap(), "it made another one");
    assert_eq!(place.names(), [place.recipe("7.2").key()]);
}

#[test]
fn one_that_was_given_up_leaves_nothing() {
    let place = Place::new();
    let unfinished = place.templates.begin(&place.recipe("7.2"), KHZ).unwrap().unwrap();
    drop(unfinished.state().unwrap());
    assert_eq!(place.names().len(), 1);
    drop(unfinished);
    assert_eq!(place.names(), [""; 0]);
    assert!(matches!(place.find("7.2"), Err(TemplateError::Missing)));
}

#[test]
fn removing_one_leaves_those_that_use_it_alone() {
    let place = Place::new();
    place.make("7.2");
    let key = place.recipe("7.2").key();
    let template = place.find("7.2").unwrap();
    assert!(place.templates.remove(&key).unwrap());
    assert!(!place.templates.remove(&key).unwrap());
    for none in ["", "..", ".lock", &key[1..], &key.to_uppercase()] {
        assert!(!place.templates.remove(none).unwrap(), "{none:?}");
    }
    let mut bytes = [0; 6];
    template.memory.read_exact_at(&mut bytes, 2_000_000).unwrap();
    assert_eq!(&bytes, b"memory");
}
