//! Sandboxes that continue one saved guest: of one shape, and otherwise strangers to each other.

use std::{collections::BTreeSet, fs};

use anyhow::{Result, ensure};
use matchlock_tests::{BUSYBOX, busybox, complaints};

#[test]
fn sandboxes_of_one_template_share_no_identity_and_nothing_random() -> Result<()> {
    let home = busybox()?;
    let files = ["/proc/sys/kernel/hostname", "/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/random/uuid"];
    let command = [&["run", "--image", BUSYBOX, "--", "cat"], &files[..]].concat();
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let ended = home.matchlock(&command).run()?.success()?;
        ensure!(!complaints(&ended).contains("starting cold"), "{}", complaints(&ended));
        for line in ended.stdout().lines() {
            ensure!(seen.insert(line.to_owned()), "{line:?} was in the first sandbox, too");
        }
    }
    assert_eq!(seen.len(), 2 * files.len());
    let templates = fs::read_dir(home.cache().templates())?;
    let templates: Vec<_> = templates.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    let templates = templates.iter().filter(|name| !name.to_string_lossy().starts_with('.'));
    assert_eq!(templates.count(), 1);
    Ok(())
}
