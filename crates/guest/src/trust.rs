//! A certificate authority that the sandbox trusts beside those of its image: added where programs look, nothing taken away.
//! Distributions that make their bundles anew find it by a link that images are converted with.
//!
//! Called for a start, with a folder that is to be laid over the image: to write to the sandbox's disk for the first time takes long
//! under emulation, and in memory next to nothing. What reads no file of these (Java's and browsers' own stores) does not learn
//! of it.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Component, Path, PathBuf},
};

use matchlock_model::guest_files::{CA_BUNDLE, CA_FILE};
use matchlock_wire::Authority;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

use crate::os_error::{Doing, OsError};

/// Where OpenSSL looks, and where [`CA_FILE`] and [`CA_BUNDLE`] are. Debian, Alpine and others have all certificates that they
/// trust in the latter; it is always there afterwards, for variables of the environment to name.
const FOLDER: &str = "/etc/ssl/certs";

/// Other places of such a bundle: Fedora and RHEL, SUSE, and where OpenSSL looks by itself in some builds.
const OTHERS: [&str; 4] = [
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Modes that files have that are made here, by the agent's umask.
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Longest bundle, for it is in memory. Debian's has 220 kB.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// Have what is seen when `over` is laid over `image` trust it. Both may be the same.
pub(crate) fn add(image: &Path, over: &Path, authority: &Authority) -> Result<(), OsError> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let added = Addition::new(image, over).and_then(|addition| addition.make(authority));
    added.map_err(errno).doing(|| "have the sandbox trust the gateway's certificates".to_owned())
}

struct Addition<'a> {
    image: &'a Path,
    opened: OwnedFd,
    over: &'a Path,
}

impl<'a> Addition<'a> {
    fn new(image: &'a Path, over: &'a Path) -> io::Result<Self> {
        let opened = open(image, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { image, opened, over })
    }

    fn make(&self, authority: &Authority) -> io::Result<()> {
        let folder = self.folder(Path::new(FOLDER))?;
        fs::write(within_folder(&folder, CA_FILE), &authority.certificate)?;
        // OpenSSL finds certificates in a folder by such names.
        self.link(CA_FILE, &Path::new(FOLDER).join(&authority.link))?;
        let mut bundles: Vec<PathBuf> = Vec::new();
        for place in [CA_BUNDLE].into_iter().chain(OTHERS) {
            match self.found(Path::new(place)) {
                Some(bundle) if !bundles.contains(&bundle) => {
                    self.add_to(&bundle, authority)?;
                    bundles.push(bundle);
                }
                _ => {}
            }
        }
        if self.found(Path::new(CA_BUNDLE)).is_some() {
            return Ok(());
        }
        let usual = within_folder(&folder, CA_BUNDLE);
        // A link that leads nowhere may be in the way.
        let _ = fs::remove_file(&usual);
        match bundles.first() {
            Some(other) => symlink(Path::new("/").join(other), &usual),
            None => fs::write(&usual, &authority.certificate),
        }
    }

    /// A path of the image without links, from the image's root; `None` if it leads nowhere.
    fn found(&self, path: &Path) -> Option<PathBuf> {
        let open = |how| openat2(&self.opened, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how);
        match open(ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
            Ok(_) => path.strip_prefix("/").map(Path::to_owned).ok(),
            Err(Errno::LOOP) => {
                let found = open(ResolveFlags::IN_ROOT).ok()?;
                let real = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
                real.strip_prefix(self.image).map(Path::to_owned).ok()
            }
            Err(_) => None,
        }
    }

    /// Where a folder is to be written to. It is made as the image has it, as far as the image has it.
    fn folder(&self, path: &Path) -> io::Result<PathBuf> {
        let mut missing: Vec<OsString> = Vec::new();
        let mut deepest = path;
        let there = loop {
            match (self.found(deepest), deepest.parent(), deepest.file_name()) {
                (Some(there), ..) => break there,
                (None, Some(parent), Some(name)) => {
                    missing.push(name.to_owned());
                    deepest = parent;
                }
                _ => break PathBuf::new(),
            }
        };
        let (mut like, mut here) = (self.image.to_owned(), self.over.to_owned());
        for name in there.components().filter(|component| matches!(component, Component::Normal(_))) {
            like.push(name);
            here.push(name);
            if made(&here)? {
                make_like(&here, FOLDER_MODE, &fs::symlink_metadata(&like)?)?;
            }
        }
        for name in missing.iter().rev() {
            here.push(name);
            made(&here)?;
        }
        Ok(here)
    }

    /// Unless the image has something under this name.
    fn link(&self, target: &str, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let there = self.found(parent).map(|parent| self.image.join(parent).join(name));
        if there.is_some_and(|there| there.symlink_metadata().is_ok()) {
            return Ok(());
        }
        symlink(target, self.folder(parent)?.join(name))
    }

    /// `bundle` is as [`Self::found`] has it.
    fn add_to(&self, bundle: &Path, authority: &Authority) -> io::Result<()> {
        let mut file = File::open(self.image.join(bundle))?;
        let like = file.metadata()?;
        if !like.is_file() {
            return Ok(());
        }
        if like.len() > MOST_BYTES {
            return Err(Errno::FBIG.into());
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        content.extend_from_slice(b"\n");
        content.extend_from_slice(authority.certificate.as_bytes());
        let folder = self.folder(&Path::new("/").join(bundle.parent().unwrap_or(bundle)))?;
        let written = folder.join(bundle.file_name().unwrap_or_default());
        fs::write(&written, content)?;
        make_like(&written, FILE_MODE, &like)
    }
}

/// Give a file that was just made, with this mode, owner and mode of another. They are mostly the same.
fn make_like(file: &Path, mode: u32, like: &Metadata) -> io::Result<()> {
    if (like.uid(), like.gid()) != (0, 0) {
        chown(file, Some(like.uid()), Some(like.gid()))?;
    }
    if like.permissions().mode() & 0o7777 == mode { Ok(()) } else { fs::set_permissions(file, like.permissions()) }
}

/// The file of this name there.
fn within_folder(folder: &Path, path: &str) -> PathBuf {
    folder.join(Path::new(path).file_name().unwrap_or_default())
}

/// Make a folder, unless there is one.
fn made(folder: &Path) -> io::Result<bool> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        Authority { certificate: "THE AUTHORITY\n".to_owned(), link: "0a1b2c3d.0".to_owned() }
    }

    struct Sandbox(tempfile::TempDir);

    /// Both in one folder, as where names have been looked up.
    fn sandbox(files: &[(&str, &str)], links: &[(&str, &str)]) -> Sandbox {
        let image = image(files, links);
        add(image.path(), image.path(), &authority()).unwrap();
        Sandbox(image)
    }

    fn image(files: &[(&str, &str)], links: &[(&str, &str)]) -> tempfile::TempDir {
        let image = tempfile::tempdir().unwrap();
        let place = |path: &str| {
            let place = image.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            place
        };
        for (path, text) in files {
            fs::write(place(path), text).unwrap();
        }
        for (path, target) in links {
            symlink(target, place(path)).unwrap();
        }
        image
    }

    impl Sandbox {
        fn has(&self, path: &str) -> Option<String> {
            let found = Addition::new(self.0.path(), Path::new("")).unwrap().found(Path::new(path))?;
            Some(fs::read_to_string(self.0.path().join(found)).unwrap())
        }

        fn read(&self, path: &str) -> String {
            self.has(path).unwrap()
        }
    }

    #[test]
    fn debians_bundle_keeps_what_it_has() {
        let it = sandbox(&[(CA_BUNDLE, "ROOTS\n")], &[]);
        assert_eq!(it.read(CA_BUNDLE), "ROOTS\n\nTHE AUTHORITY\n");
        assert_eq!(it.read(CA_FILE), "THE AUTHORITY\n");
        assert_eq!(it.read("/etc/ssl/certs/0a1b2c3d.0"), "THE AUTHORITY\n");
    }

    #[test]
    fn a_bundle_with_several_names_is_added_to_once() {
        let it = sandbox(&[(CA_BUNDLE, "ROOTS\n")], &[("/etc/ssl/cert.pem", CA_BUNDLE)]);
        assert_eq!(it.read("/etc/ssl/cert.pem"), "ROOTS\n\nTHE AUTHORITY\n");
    }

    #[test]
    fn fedoras_bundle_is_found_under_the_usual_name_too() {
        let it = sandbox(&[(OTHERS[0], "ROOTS\n")], &[(OTHERS[1], OTHERS[0])]);
        for path in [OTHERS[0], OTHERS[1], CA_BUNDLE] {
            assert_eq!(it.read(path), "ROOTS\n\nTHE AUTHORITY\n", "{path}");
        }
    }

    #[test]
    fn an_image_without_certificates_trusts_this_one() {
        let it = sandbox(&[], &[]);
        assert_eq!(it.read(CA_BUNDLE), "THE AUTHORITY\n");
        let dangling = sandbox(&[], &[(CA_BUNDLE, "/nowhere")]);
        assert_eq!(dangling.read(CA_BUNDLE), "THE AUTHORITY\n");
        assert_eq!(dangling.has("/nowhere"), None);
    }

    #[test]
    fn a_layer_has_what_is_added_and_is_like_the_image() {
        let image = image(&[("/srv/certs/ca-certificates.crt", "ROOTS\n")], &[("/etc/ssl/certs", "/srv/certs")]);
        let permissions = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(image.path().join("srv/certs"), permissions(0o2750)).unwrap();
        fs::set_permissions(image.path().join("srv/certs/ca-certificates.crt"), permissions(0o640)).unwrap();
        let over = tempfile::tempdir().unwrap();
        add(image.path(), over.path(), &authority()).unwrap();
        let mode = |path: &str| fs::metadata(over.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("srv/certs"), mode("srv/certs/ca-certificates.crt")), (0o2750, 0o640));
        let read = |path: &str| fs::read_to_string(over.path().join(path)).unwrap();
        assert_eq!(read("srv/certs/ca-certificates.crt"), "ROOTS\n\nTHE AUTHORITY\n");
        assert_eq!(read("srv/certs/matchlock-ca.crt"), "THE AUTHORITY\n");
        assert!(!over.path().join("etc").exists(), "the image's link leads there");
        assert_eq!(fs::read_to_string(image.path().join("srv/certs/ca-certificates.crt")).unwrap(), "ROOTS\n");
    }

    #[test]
    fn a_bundle_that_is_no_bundle_is_refused() {
        let image = image(&[(CA_BUNDLE, "")], &[]);
        let bundle = File::options().write(true).open(image.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
        bundle.set_len(MOST_BYTES + 1).unwrap();
        let refused = add(image.path(), image.path(), &authority()).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("error {}", Errno::FBIG.raw_os_error())), "{refused}");
    }
}
