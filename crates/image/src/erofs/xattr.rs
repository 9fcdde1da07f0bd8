//! Extended attributes beside the inode (`struct erofs_xattr_ibody_header`, `struct erofs_xattr_entry`).

use std::collections::BTreeMap;

use crate::EntryProblem;

/// Name prefixes that EROFS has a number for; names with another one cannot be stored.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// Attributes by which overlayfs steers itself. In the guest the image is a lower layer: a layer must not be able to
/// redirect or hide what others brought, so they are left out.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 4;
/// As much as the inode's count of 16 bits can say.
const MAX_BYTES: usize = HEADER_BYTES + (u16::MAX as usize - 1) * ENTRY_BYTES;

/// The attributes as they follow the inode; `None` where none is left. Of equal names the last one counts.
pub(crate) fn encode(xattrs: &[(Vec<u8>, Vec<u8>)], max_bytes: usize) -> Result<Option<Vec<u8>>, EntryProblem> {
    let max_bytes = max_bytes.min(MAX_BYTES);
    let too_large = EntryProblem::XattrTooLarge(max_bytes);
    let mut body = vec![0; HEADER_BYTES];
    let by_name: BTreeMap<_, _> = xattrs.iter().map(|(name, value)| (name, value)).collect();
    for (name, value) in by_name {
        let Some((index, suffix)) = split_prefix(name) else { continue };
        if OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(suffix.len()), u16::try_from(value.len())) else {
            return Err(too_large);
        };
        body.extend_from_slice(&[name_len, index]);
        body.extend_from_slice(&value_len.to_le_bytes());
        body.extend_from_slice(suffix);
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(ENTRY_BYTES), 0);
        if body.len() > max_bytes {
            return Err(too_large);
        }
    }
    Ok((body.len() > HEADER_BYTES).then_some(body))
}

/// The prefix's number and the rest of the name. ACL names have no rest, the others must.
fn split_prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    let (index, suffix) = PREFIXES.iter().find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))?;
    (suffix.is_empty() == matches!(index, 2 | 3) && !suffix.contains(&0)).then_some((index, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(names: &[&str]) -> Vec<(Vec<u8>, Vec<u8>)> {
        names.iter().map(|name| (name.as_bytes().to_vec(), b"value".to_vec())).collect()
    }

    #[test]
    fn names_that_cannot_or_must_not_be_stored_are_left_out() {
        let dropped =
            ["btrfs.x", "user.", "system.posix_acl_accessory", "trusted.overlay.opaque", "user.overlay.redirect"];
        assert_eq!(encode(&pairs(&dropped), 4096), Ok(None));
    }

    #[test]
    fn the_last_of_equal_names_counts_and_sizes_are_bounded() {
        let mut twice = pairs(&["user.a", "user.a"]);
        twice[0].1 = b"old".to_vec();
        let encoded = encode(&twice, 4096).unwrap().unwrap();
        assert_eq!(&encoded[12..], b"\x01\x01\x05\0avalue\0\0");
        assert_eq!(encode(&twice, 20), Err(EntryProblem::XattrTooLarge(20)));
    }
}
