//! A disk as QEMU's block layer knows it: a raw node, which has the disk's name and which the guest's device uses, over a node
//! for the file. Another file node can take that one's place while the guest runs.
//!
//! Invariant: QEMU opens no path. Files are passed, and opened anew by the number of the set that they were put in.

use std::fs::File;

use serde_json::{Value, json};

use super::{MAX_DISKS, QemuError, Qmp, QmpError};
use crate::machine::{Disk, Flush};

/// The set with the file that a disk begins with. QEMU counts from one.
pub(super) const fn set(number: usize) -> usize {
    1 + number
}

/// The set with the file that takes that one's place.
const fn replacement_set(number: usize) -> usize {
    set(MAX_DISKS) + number
}

/// The raw node's name.
pub(super) fn name(number: usize) -> String {
    format!("disk{number}")
}

/// The raw node.
pub(super) fn node(number: usize, disk: &Disk) -> Value {
    raw(number, disk, &file_node(set(number)))
}

/// The node of a file. QEMU would drop what the host has cached of it whenever a saved guest goes on, as if another host might
/// have written to it: the image that every start reads, which would come from the disk again, and the writable layer that was
/// just made, which would have to be written to it.
fn file_node(set: usize) -> Value {
    json!({ "driver": "file", "filename": path(set), "drop-cache": false })
}

fn raw(number: usize, disk: &Disk, file: &Value) -> Value {
    with_rights(disk, json!({ "driver": "raw", "node-name": name(number), "file": file }))
}

/// What a raw node hands down to a file node that is described inside it, and what one of its own needs to be told.
fn with_rights(disk: &Disk, mut node: Value) -> Value {
    node["read-only"] = disk.readonly.into();
    node["discard"] = if disk.discard { "unmap" } else { "ignore" }.into();
    node["cache"] = json!({ "direct": false, "no-flush": disk.flush == Flush::Ignored });
    node
}

fn path(set: usize) -> String {
    format!("/dev/fdset/{set}")
}

/// The disk's file, with the rights of the disk.
pub(super) fn open(disk: &Disk) -> Result<File, QemuError> {
    let file = File::options().read(true).write(!disk.readonly).open(&disk.file);
    file.map_err(|e| QemuError::File(disk.name.clone(), e))
}

impl Qmp {
    /// Put `file`, which is `disk`'s, under disk `number`, and let go of the file that it has. The guest is not told. The
    /// disk's other properties are those that it began with; and once only, because the new node's name is taken then.
    ///
    /// # Errors
    /// It is not known then which file the disk has.
    pub(super) async fn replace(&mut self, number: usize, disk: &Disk, file: File) -> Result<(), QmpError> {
        let (old_set, new_set) = (set(number), replacement_set(number));
        let new_node = format!("{}-replacement", name(number));
        let mut node = file_node(new_set);
        node["node-name"] = new_node.as_str().into();
        self.send_with("add-fd", json!({ "fdset-id": new_set }), file).await?;
        self.send("blockdev-add", with_rights(disk, node)).await?;
        self.send("blockdev-reopen", json!({ "options": [raw(number, disk, &new_node.into())] })).await?;
        // The nodes have descriptors of their own; the old file's is closed with its node, which nothing uses any more.
        self.send("remove-fd", json!({ "fdset-id": new_set })).await?;
        self.send("remove-fd", json!({ "fdset-id": old_set })).await?;
        self.settle().await
    }
}
