//! A certificate authority that the sandbox trusts beside those of its image: added where programs look, nothing taken away.
//!
//! Called for a start. What reads no file of these (Java's and browsers' own stores) does not learn of it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use matchlock_wire::Authority;
use rustix::io::Errno;

use crate::os_error::{Doing, OsError};

/// Where the certificate is by itself.
const OWN: &str = "etc/ssl/certs/matchlock-ca.crt";

/// Where Debian, Alpine and others have all certificates that they trust in one file. There always is one afterwards, for
/// variables of the environment to name.
const USUAL: &str = "etc/ssl/certs/ca-certificates.crt";

/// Other places of it: Fedora and RHEL, SUSE, and where OpenSSL looks by itself in some builds.
const OTHERS: [&str; 4] = [
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];

/// Have the file system below `root` trust it.
pub(crate) fn add(root: &Path, authority: &Authority) -> Result<(), OsError> {
    let added = || {
        let own = root.join(OWN);
        let folder = own.parent().unwrap_or(root);
        fs::create_dir_all(folder)?;
        fs::write(&own, &authority.certificate)?;
        // OpenSSL finds certificates in a folder by such names.
        link(&own, &folder.join(&authority.link))?;
        for bundle in bundles(root) {
            write!(OpenOptions::new().append(true).open(&bundle)?, "\n{}", authority.certificate)?;
        }
        let usual = root.join(USUAL);
        if usual.exists() {
            return Ok(());
        }
        // Not followed: a link that leads nowhere is in the way.
        let _ = fs::remove_file(&usual);
        match OTHERS.iter().map(|other| root.join(other)).find(|other| other.exists()) {
            Some(other) => link(&other, &usual),
            None => fs::write(&usual, &authority.certificate),
        }
    };
    let added: io::Result<()> = added();
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    added.map_err(errno).doing(|| "have the sandbox trust the gateway's certificates".to_owned())
}

/// The files that are there, each once: some are links to others.
fn bundles(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for place in std::iter::once(&USUAL).chain(&OTHERS) {
        match fs::canonicalize(root.join(place)) {
            Ok(file) if file.is_file() && !found.contains(&file) => found.push(file),
            _ => {}
        }
    }
    found
}

/// What is there under this name stays.
fn link(target: &Path, name: &Path) -> io::Result<()> {
    match symlink(target, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        Authority { certificate: "THE AUTHORITY\n".to_owned(), link: "0a1b2c3d.0".to_owned() }
    }

    fn image(files: &[(&str, &str)], links: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
            fs::write(root.path().join(path), text).unwrap();
        }
        for (path, target) in links {
            fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
            symlink(root.path().join(target), root.path().join(path)).unwrap();
        }
        add(root.path(), &authority()).unwrap();
        root
    }

    fn read(root: &tempfile::TempDir, path: &str) -> String {
        fs::read_to_string(root.path().join(path)).unwrap()
    }

    #[test]
    fn debians_bundle_keeps_what_it_has() {
        let root = image(&[(USUAL, "ROOTS\n")], &[]);
        assert_eq!(read(&root, USUAL), "ROOTS\n\nTHE AUTHORITY\n");
        assert_eq!(read(&root, OWN), "THE AUTHORITY\n");
        assert_eq!(read(&root, "etc/ssl/certs/0a1b2c3d.0"), "THE AUTHORITY\n");
    }

    #[test]
    fn a_bundle_with_several_names_is_added_to_once() {
        let root = image(&[(USUAL, "ROOTS\n")], &[("etc/ssl/cert.pem", USUAL)]);
        assert_eq!(read(&root, "etc/ssl/cert.pem"), "ROOTS\n\nTHE AUTHORITY\n");
    }

    #[test]
    fn fedoras_bundle_is_found_under_the_usual_name_too() {
        let root = image(&[(OTHERS[0], "ROOTS\n")], &[(OTHERS[1], OTHERS[0])]);
        for path in [OTHERS[0], OTHERS[1], USUAL] {
            assert_eq!(read(&root, path), "ROOTS\n\nTHE AUTHORITY\n", "{path}");
        }
    }

    #[test]
    fn an_image_without_certificates_trusts_this_one() {
        let root = image(&[], &[]);
        assert_eq!(read(&root, USUAL), "THE AUTHORITY\n");
        let dangling = image(&[], &[(USUAL, "nowhere")]);
        assert_eq!(read(&dangling, USUAL), "THE AUTHORITY\n");
        assert!(!dangling.path().join("nowhere").exists());
    }
}
