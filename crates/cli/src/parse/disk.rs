//! `--disk`.

use std::path::Path;

use matchlock_model::{CacheLayout, ExtraDisk};

use crate::error::CliError;

/// `HOST_PATH:GUEST_MOUNT[:ro]` or `@NAME:GUEST_MOUNT[:ro]`.
pub(crate) fn extra_disk(spec: &str, cache: &CacheLayout) -> Result<ExtraDisk, CliError> {
    parse(spec, cache).map_err(|why| CliError::failure(format!("invalid disk mount {spec:?}: {why}")))
}

fn parse(spec: &str, cache: &CacheLayout) -> Result<ExtraDisk, String> {
    let parts: Vec<&str> = spec.split(':').map(str::trim).collect();
    let (source, mount, options) = match parts[..] {
        [source, mount] => (source, mount, "rw"),
        [source, mount, options] => (source, mount, options),
        _ => return Err("expected format host_path:guest_mount[:ro] or @volume_name:guest_mount[:ro]".to_owned()),
    };
    if source.is_empty() || mount.is_empty() {
        return Err("host_path and guest_mount are required".to_owned());
    }
    let readonly = match options {
        "ro" | "readonly" => true,
        "rw" => false,
        other => return Err(format!("unknown disk option {other:?} (use \"ro\")")),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/_.-".contains(&b);
    if !mount.starts_with('/') || mount == "/" || !mount.bytes().all(plain) || mount.split('/').any(|p| p == "..") {
        return Err(format!(
            "invalid guest mount path {mount:?}: use an absolute path of letters, digits, '_', '.', '-'"
        ));
    }
    let host_path = match source.strip_prefix('@') {
        Some(name) => volume(name, cache)?,
        None => std::path::absolute(source).map_err(|error| format!("host path {source}: {error}"))?,
    };
    if !host_path.is_file() {
        let what = if source.starts_with('@') { "named volume not found" } else { "host path does not exist" };
        return Err(format!("{what}: {}", source.trim_start_matches('@')));
    }
    Ok(ExtraDisk { host_path, guest_mount: mount.to_owned(), readonly })
}

fn volume(name: &str, cache: &CacheLayout) -> Result<std::path::PathBuf, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    match name.as_bytes() {
        [] => Err("volume name is required after '@'".to_owned()),
        [first, ..] if first.is_ascii_alphanumeric() && name.bytes().all(plain) => {
            Ok(cache.volumes().join(Path::new(&format!("{name}.ext4"))))
        }
        _ => Err(format!("invalid volume name: {name}")),
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
        let good = extra_disk(&format!("{}:/data:ro", disk.display()), &cache).unwrap();
        assert!(good.readonly && good.host_path == disk && good.guest_mount == "/data");
        let why = |spec: &str| parse(spec, &cache).unwrap_err();
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
