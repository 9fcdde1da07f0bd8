//! A whole Debian root, file by file, against what `tar` extracts of the same archive.

use std::{fs, process::Command};

use crate::{
    image::{convert, is_root},
    snapshot::Snapshot,
};

#[test]
#[ignore = "builds a Debian root of 170 MB from packages; scripts/test --long runs it"]
fn a_debian_root_is_what_tar_extracts() {
    if !is_root() {
        println!("skipped: only root can extract owners and devices to compare with");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("root.tar");
    let run = |command: &mut Command| {
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command.status().unwrap_or_else(|error| panic!("{program}: {error} (install {program})"));
        assert!(status.success(), "{program} failed");
    };
    run(Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", "bookworm"]).arg(&archive));
    let extracted = folder.path().join("extracted");
    fs::create_dir(&extracted).unwrap();
    let options = ["--xattrs", "--xattrs-include=*", "--acls", "--same-owner", "--preserve-permissions", "-xf"];
    run(Command::new("tar").args(options).arg(&archive).arg("-C").arg(&extracted));
    let image = convert([fs::read(&archive).unwrap()]).unwrap();
    let expected = Snapshot::read(&extracted);
    assert!(expected.0.len() > 5000);
    image.assert_is(&expected);
}
