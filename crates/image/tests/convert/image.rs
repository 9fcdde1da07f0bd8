//! Conversions, and the two independent readers of what comes out.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use matchlock_image::{AppliedLayer, ConvertError, Converter, ImageSummary, Limits};
use tempfile::TempDir;

use crate::snapshot::Snapshot;

/// An image in a folder of its own.
pub(crate) struct Image {
    folder: TempDir,
    pub(crate) layers: Vec<AppliedLayer>,
    pub(crate) summary: ImageSummary,
}

/// Converts layers, base first, and has `fsck.erofs` check the result.
pub(crate) fn convert<L: AsRef<[u8]>>(layers: impl IntoIterator<Item = L>) -> Result<Image, ConvertError> {
    convert_within(Limits::default(), layers)
}

pub(crate) fn convert_within<L: AsRef<[u8]>>(
    limits: Limits,
    layers: impl IntoIterator<Item = L>,
) -> Result<Image, ConvertError> {
    convert_with(limits, |converter| layers.into_iter().map(|layer| converter.apply_layer(layer.as_ref())).collect())
}

pub(crate) fn convert_with(
    limits: Limits,
    apply: impl FnOnce(&mut Converter) -> Result<Vec<AppliedLayer>, ConvertError>,
) -> Result<Image, ConvertError> {
    let folder = tempfile::tempdir().unwrap();
    let out = File::options().read(true).write(true).create_new(true).open(folder.path().join("image")).unwrap();
    let mut converter = Converter::create(out, limits)?;
    let layers = apply(&mut converter)?;
    let summary = converter.finish()?;
    let image = Image { folder, layers, summary };
    image.check();
    Ok(image)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Image {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Asserts that the image is sound, shows what `expected` says to `fsck.erofs` and, as root, to the kernel.
    pub(crate) fn assert_is(&self, expected: &Snapshot) {
        self.extract(|root| Snapshot::read(root).as_extracted().assert_is(&expected.as_extracted()));
        if is_root() {
            self.mount(|root| Snapshot::read(root).assert_is(expected));
        } else {
            println!("skipped: the kernel's view needs root");
        }
    }

    /// The tree as the kernel shows it, or for an ordinary user what `fsck.erofs` can extract of it.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Path) -> T) -> T {
        if is_root() { self.mount(at) } else { self.extract(at) }
    }

    fn check(&self) {
        let output = run(Command::new("fsck.erofs").arg(self.path()));
        let report = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !report.contains("<E>"), "fsck.erofs: {report}");
    }

    fn extract<T>(&self, at: impl FnOnce(&Path) -> T) -> T {
        let to = self.folder.path().join("extracted");
        let option = format!("--extract={}", to.display());
        let output = run(Command::new("fsck.erofs").args([option.as_str(), "--no-preserve"]).arg(self.path()));
        assert!(output.status.success(), "fsck.erofs --extract: {}", String::from_utf8_lossy(&output.stderr));
        // Owners and permissions are the kernel's to show; an ordinary user could not read everything with them.
        let output = run(Command::new("chmod").args(["-R", "u+rwX"]).arg(&to));
        assert!(output.status.success(), "chmod: {}", String::from_utf8_lossy(&output.stderr));
        let result = at(&to);
        fs::remove_dir_all(&to).unwrap();
        result
    }

    fn mount<T>(&self, at: impl FnOnce(&Path) -> T) -> T {
        let mounted = Mounted::new(&self.path(), self.folder.path().join("mounted"));
        at(&mounted.0)
    }
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, on: PathBuf) -> Self {
        fs::create_dir_all(&on).unwrap();
        let output = run(Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(&on));
        assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Self(on)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that another test is just starting holds our descriptors until it executes its program.
        let output = run(Command::new("umount").arg("--lazy").arg(&self.0));
        let expected = output.status.success() || std::thread::panicking();
        assert!(expected, "umount: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn run(command: &mut Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| panic!("{program}: {error} (install erofs-utils and mount)"))
}
