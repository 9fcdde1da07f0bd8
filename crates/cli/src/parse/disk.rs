//! `--disk`.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use matchlock_model::{CacheLayout, ExtraDisk};

use crate::error::CliError;

/// `HOST_PATH:GUEST_MOUNT[:ro]` or `@NAME:GUEST_MOUNT[:ro]`.
pub(crate) fn extra_disk(spec: &OsStr, cache: &CacheLayout) -> Result<ExtraDisk, CliError> {
    parse(spec, cache).map_err(|why| CliError::failure(format!("invalid disk mount \"{}\": {why}", spec.display())))
}

fn parse(spec: &OsStr, cache: &CacheLayout) -> Result<ExtraDisk, String> {
    let parts: Vec<&[u8]> = spec.as_bytes().split(|byte| *byte == b':').map(<[u8]>::trim_ascii).collect();
    let (source, mount, options) = match parts[..] {
        [source, mount] => (source, mount, &b"rw"[..]),
        [source, mount, options] => (source, mount, options),
        _ => return Err("expected format host_path:guest_mount[:ro] or @volume_name:guest_mount[:ro]".to_owned()),
    };
    if source.is_empty() || mount.is_empty() {
        return Err("host_path and guest_mount are required".to_owned());
    }
    let readonly = match options {
        b"ro" | b"readonly" => true,
        b"rw" => false,
        other => return Err(format!("unknown disk option \"{}\" (use \"ro\")", other.escape_ascii())),
    };
    let mount = String::from_utf8_lossy(mount);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/_.-".contains(&b);
    if !mount.starts_with('/') || mount == "/" || !mount.bytes().all(plain) || mount.split('/').any(|p| p == "..") {
        return Err(format!(
            "invalid guest mount path {mount:?}: use an absolute path of letters, digits, '_', '.', '-'"
        ));
    }
    let (host_path, what, name) = match source.strip_prefix(b"@") {
        Some(name) => (volume(name, cache)?, "named volume not found", name),
        None => (absolute(source)?, "host path does not exist", source),
    };
    if host_path.is_dir() {
        return Err(format!("not a disk image but a folder: {}", OsStr::from_bytes(name).display()));
    }
    if !host_path.is_file() {
        return Err(format!("{what}: {}", OsStr::from_bytes(name).display()));
    }
    Ok(ExtraDisk { host_path, guest_mount: mount.into_owned(), readonly })
}

/// Any name that Linux knows is one, whatever its encoding.
fn absolute(source: &[u8]) -> Result<PathBuf, String> {
    let path = Path::new(OsStr::from_bytes(source));
    std::path::absolute(path).map_err(|error| format!("host path {}: {error}", path.display()))
}

fn volume(name: &[u8], cache: &CacheLayout) -> Result<PathBuf, String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_.-".contains(b);
    match name {
        [] => Err("volume name is required after '@'".to_owned()),
        [first, ..] if first.is_ascii_alphanumeric() && name.iter().all(plain) => {
            Ok(cache.volume(&name.escape_ascii().to_string()))
        }
        _ => Err(format!("invalid volume name: {}", OsStr::from_bytes(name).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_has_its_line() {
        let home = tempfile::tempdir().unwrap();
        let cache = CacheLayout::new(home.path());
        let disk = home.path().join("d.ext4");
        std::fs::write(&disk, "").unwrap();
        let good = extra_disk(format!("{}:/data:ro", disk.display()).as_ref(), &cache).unwrap();
        assert!(good.readonly && good.host_path == disk && good.guest_mount == "/data");
        let why = |spec: &str| parse(spec.as_ref(), &cache).unwrap_err();
        let odd = home.path().join(OsStr::from_bytes(b"caf\xe9"));
        std::fs::write(&odd, "").unwrap();
        let odd = [odd.as_os_str().as_bytes(), b":/data"].concat();
        assert!(extra_disk(OsStr::from_bytes(&odd), &cache).unwrap().host_path.is_file());
        let good = disk.display();
        insta::assert_snapshot!([why("x"), why(":/data"), why("@:/data"), why("@a/b:/data"), why("@none:/data"),
            why("/none:/data"), why(&format!("{good}:data")).replace(&good.to_string(), ""), why("x:/data:w"),
            why("x:/a/../b")].join("\n"), @r#"
        expected format host_path:guest_mount[:ro] or @volume_name:guest_mount[:ro]
        host_path and guest_mount are required
        volume name is required after '@'
        invalid volume name: a/b
        named volume not found: none
        host path does not exist: /none
        invalid guest mount path "data": use an absolute path of letters, digits, '_', '.', '-'
        unknown disk option "w" (use "ro")
        invalid guest mount path "/a/../b": use an absolute path of letters, digits, '_', '.', '-'
        "#);
    }
}
