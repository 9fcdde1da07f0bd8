//! Images as `docker save` archives: a whole Debian, a busybox, and one static program with nothing around it.
//!
//! Each is made once and kept in `target/test-images`, named by a digest of how it is made.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use matchlock_model::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{ImageSpec, LayerTar, busybox_layer, run, target::made_once, tool};

/// What `mmdebstrap` is told. The shell, Python and Node.js are what stories use.
const DEBIAN: &[&str] =
    &["--quiet", "--variant=minbase", "--include=bash,coreutils,procps,python3,nodejs,ca-certificates", "bookworm"];

const DEBIAN_WITH_TOOLS: &[&str] =
    &["--quiet", "--variant=minbase", "--include=build-essential,git,python3,nodejs,ca-certificates", "bookworm"];

/// The clients that people use, and what makes requests that no client would. Nobody reads their documentation here.
const DEBIAN_WITH_CLIENTS: &[&str] = &[
    "--quiet",
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--include=ca-certificates,curl,git,iproute2,nodejs,openssh-client,openssl,python3,python3-grpcio,python3-pip,\
     python3-requests,python3-websockets,wget",
    "bookworm",
];

/// A Debian userland with bash, coreutils, Python and Node.js: some 350 MB. The first time takes a minute.
///
/// # Errors
/// A program is missing, or packages cannot be fetched.
pub fn debian() -> Result<PathBuf> {
    bootstrapped("debian", DEBIAN)
}

/// A Debian userland with compilers and version control besides: some 600 MB, for measurements.
///
/// # Errors
/// A program is missing, or packages cannot be fetched.
pub fn debian_with_tools() -> Result<PathBuf> {
    bootstrapped("debian-with-tools", DEBIAN_WITH_TOOLS)
}

/// A Debian userland with the usual clients of the network: curl, wget, Python's requests, gRPC and web
/// sockets, Node.js, git, ssh, openssl, apt and pip. Some 360 MB; the first time takes two minutes.
///
/// # Errors
/// A program is missing, or packages cannot be fetched.
pub fn debian_with_clients() -> Result<PathBuf> {
    bootstrapped("debian-with-clients", DEBIAN_WITH_CLIENTS)
}

fn bootstrapped(kind: &str, arguments: &[&str]) -> Result<PathBuf> {
    let config = json!({"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]});
    let recipe = format!("{arguments:?} {config}");
    made_once(kind, &version(recipe.as_bytes()), |path| {
        let layer = path.with_file_name("layer.tar");
        run(tool("mmdebstrap", "mmdebstrap")?.args(arguments).arg(&layer))?;
        write_archive(path, &config, &mut File::open(&layer)?)
    })
}

/// A static busybox as `/bin/sh` and a few other names, with `/etc/passwd`. What a musl image looks like from outside.
///
/// # Errors
/// There is no static busybox to be had.
pub fn busybox() -> Result<PathBuf> {
    let config = json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]});
    small("busybox", &config, &busybox_layer()?)
}

/// `/busybox` and nothing else: no shell by that name, no `/etc`, no folder to write into, no environment.
///
/// # Errors
/// There is no static busybox to be had.
pub fn scratch_static() -> Result<PathBuf> {
    let busybox = std::fs::read("/bin/busybox").context("run: apt-get install busybox-static")?;
    let layer = LayerTar::new().file("busybox", 0o755, &busybox)?.finish()?;
    small("scratch", &json!({"Entrypoint": ["/busybox"]}), &layer)
}

fn small(kind: &str, config: &Value, layer: &[u8]) -> Result<PathBuf> {
    let recipe = [config.to_string().as_bytes(), layer].concat();
    made_once(kind, &version(&recipe), |path| write_archive(path, config, &mut io::Cursor::new(layer)))
}

/// The same recipe makes the same archive.
fn version(recipe: &[u8]) -> String {
    let digest = Digest::from_bytes(Sha256::digest(recipe).into()).hex();
    format!("{}.tar", &digest[..16])
}

/// Write an archive of one image with one layer, as `docker save` does (Docker Image Specification 1.2).
fn write_archive(path: &Path, config: &Value, layer: &mut (impl Read + io::Seek)) -> Result<()> {
    let mut hasher = Hasher { sha256: Sha256::new(), length: 0 };
    io::copy(layer, &mut hasher)?;
    layer.rewind()?;
    let digest = Digest::from_bytes(hasher.sha256.finalize().into());
    let architecture = ImageSpec::new(Vec::new()).architecture;
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["layer.tar"]}]);

    let mut archive = tar::Builder::new(File::create(path)?);
    for (name, json) in [("manifest.json", manifest), ("config.json", config)] {
        append(&mut archive, name, json.to_string().len() as u64, json.to_string().as_bytes())?;
    }
    append(&mut archive, "layer.tar", hasher.length, layer)?;
    archive.into_inner()?.sync_all()?;
    Ok(())
}

fn append(archive: &mut tar::Builder<File>, name: &str, length: u64, content: impl Read) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    Ok(archive.append_data(&mut header, name, content)?)
}

struct Hasher {
    sha256: Sha256,
    length: u64,
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha256.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_can_read_the_archives() {
        for (archive, config, value) in
            [(busybox().unwrap(), "Cmd", "/bin/sh"), (scratch_static().unwrap(), "Entrypoint", "/busybox")]
        {
            let source = format!("docker-archive:{}", archive.display());
            let printed = run(tool("skopeo", "skopeo").unwrap().args(["inspect", "--config", &source])).unwrap();
            let inspected: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(inspected["config"][config][0], value);
            let copy = tempfile::tempdir().unwrap();
            let target = format!("oci:{}", copy.path().display());
            // Copying reads the layer and checks its digest.
            run(tool("skopeo", "skopeo").unwrap().args(["copy", "--quiet", &source, &target])).unwrap();
        }
    }
}
