//! Layer tars made by hand, so that they can hold what no tool would write.

use std::io::Write;

use tar::{EntryType, Header};

/// Metadata of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    pub(crate) fn mode(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() }
    }
}

/// An uncompressed layer that grows entry by entry.
#[derive(Default)]
pub(crate) struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, b"", data, &Attributes::mode(0o644))
    }

    pub(crate) fn dir(self, path: impl AsRef<[u8]>, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, b"", b"", &Attributes::mode(mode))
    }

    pub(crate) fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Symlink, path, target, b"", &Attributes::mode(0o777))
    }

    pub(crate) fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Link, path, target, b"", &Attributes::mode(0o644))
    }

    /// Any entry; long names, odd times and attributes go into PAX records.
    pub(crate) fn entry(
        self,
        kind: EntryType,
        path: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
        attributes: &Attributes,
    ) -> Self {
        let (path, link) = (path.as_ref(), link.as_ref());
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(attributes.mode);
        header.set_size(data.as_ref().len() as u64);
        header.set_uid(attributes.uid.into());
        header.set_gid(attributes.gid.into());
        fit(&mut header.as_old_mut().name, path, "path", &mut records);
        fit(&mut header.as_old_mut().linkname, link, "linkpath", &mut records);
        match attributes.mtime {
            (seconds @ 0.., 0) => header.set_mtime(seconds.cast_unsigned()),
            (seconds @ 0.., nanos) => records.push(("mtime".into(), format!("{seconds}.{nanos:09}").into_bytes())),
            (seconds, 0) => records.push(("mtime".into(), seconds.to_string().into_bytes())),
            (seconds, nanos) => {
                let (seconds, nanos) = (-(seconds + 1), 1_000_000_000 - nanos);
                records.push(("mtime".into(), format!("-{seconds}.{nanos:09}").into_bytes()));
            }
        }
        for (name, value) in &attributes.xattrs {
            records.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        let layer = if records.is_empty() { self } else { self.pax(&records) };
        layer.raw(header, data)
    }

    pub(crate) fn device(
        self,
        kind: EntryType,
        path: &str,
        (major, minor): (u32, u32),
        attributes: &Attributes,
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(attributes.mode);
        header.set_uid(attributes.uid.into());
        header.set_gid(attributes.gid.into());
        header.set_size(0);
        header.set_mtime(attributes.mtime.0.cast_unsigned());
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, b"")
    }

    /// A PAX header for the entry that follows.
    pub(crate) fn pax(self, records: &[(String, Vec<u8>)]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            write!(data, "{len} {key}=").unwrap();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(data.len() as u64);
        self.raw(header, data)
    }

    /// A header as it is, its checksum set, and data with padding.
    pub(crate) fn raw(mut self, mut header: Header, data: impl AsRef<[u8]>) -> Self {
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(data.as_ref());
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    /// The archive so far, without its end.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.tar
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.tar.extend_from_slice(&[0; 1024]);
        self.tar
    }
}

fn fit(field: &mut [u8], value: &[u8], key: &str, records: &mut Vec<(String, Vec<u8>)>) {
    if value.len() <= field.len() && !value.contains(&0) {
        field[..value.len()].copy_from_slice(value);
    } else {
        records.push((key.into(), value.to_vec()));
    }
}
