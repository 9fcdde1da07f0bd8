//! The kernel that this host itself runs, where its file may be read.

use std::{fs::File, io, path::Path};

use super::Found;

/// Look in the two places where distributions keep it.
pub(super) fn find(root: &Path, uname_release: &str) -> io::Result<Found> {
    let release = release_of(uname_release)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "odd kernel release of this host"))?;
    let modules = root.join("lib/modules").join(&release);
    let places = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let mut failure = None;
    for image in places {
        match File::open(&image) {
            Ok(_) => return Ok(Found { image, modules: modules.is_dir().then_some(modules), version: release }),
            // A file that is there but closed says more than one that is not there.
            Err(e) if failure.is_none() || e.kind() != io::ErrorKind::NotFound => {
                failure = Some(io::Error::new(e.kind(), format!("{}: {e}", image.display())));
            }
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// A kernel release that can be part of a file name.
pub(super) fn release_of(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_+~".contains(&b);
    let looks_right = text.starts_with(|c: char| c.is_ascii_digit()) && text.len() <= 64 && text.bytes().all(plain);
    looks_right.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_kernel_is_found_in_both_places_or_said_not_to_be() {
        let root = tempfile::tempdir().unwrap();
        let missing = find(root.path(), "6.1.0").unwrap_err().to_string();
        assert!(missing.contains("boot/vmlinuz-6.1.0"), "{missing}");
        fs::create_dir_all(root.path().join("lib/modules/6.1.0")).unwrap();
        fs::write(root.path().join("lib/modules/6.1.0/vmlinuz"), "").unwrap();
        let found = find(root.path(), "6.1.0").unwrap();
        assert!(found.image.ends_with("modules/6.1.0/vmlinuz") && found.modules.is_some());
        assert!(find(root.path(), "../x").is_err());
    }
}
