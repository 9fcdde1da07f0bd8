//! What a kernel module says about itself: the `.modinfo` section of its ELF file.
//!
//! Taken instead of `modules.dep`, which `depmod` makes and an unpacked package therefore lacks. Invariant: every
//! offset and count in the file is checked; a file that is no module is an error, never a panic.

use std::io::{self, Read};

/// Bound on a module's size, unpacked.
const MAX_MODULE: u64 = 64 * 1024 * 1024;

/// A module as the guest kernel takes it: unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` where its file name may have `-`.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

impl Module {
    /// Unpack a module file's content, going by what it starts with.
    pub(super) fn unpack(name: &str, packed: Vec<u8>) -> io::Result<Self> {
        let bytes = match packed.get(..4) {
            Some([0x1f, 0x8b, ..]) => bounded(flate2::read::GzDecoder::new(&packed[..]))?,
            Some([0x28, 0xb5, 0x2f, 0xfd]) => bounded(zstd::stream::read::Decoder::new(&packed[..])?)?,
            Some([0xfd, b'7', b'z', b'X']) => bounded(liblzma::read::XzDecoder::new(&packed[..]))?,
            _ => packed,
        };
        Ok(Self { name: name.to_owned(), bytes })
    }

    /// The modules that must be loaded before this one: those it cannot do without, and those it would like
    /// (`MODULE_SOFTDEP`), such as an implementation of a checksum it asks for by name.
    pub(super) fn needs(&self) -> io::Result<Needs> {
        let section = modinfo(&self.bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a kernel module: no .modinfo section"))?;
        let mut needs = Needs::default();
        for entry in section.split(|b| *b == 0) {
            let entry = String::from_utf8_lossy(entry);
            if let Some(list) = entry.strip_prefix("depends=") {
                needs.hard.extend(list.split(',').filter(|name| !name.is_empty()).map(normal));
            } else if let Some(list) = entry.strip_prefix("softdep=") {
                let before = list.split_ascii_whitespace().skip_while(|word| *word != "pre:").skip(1);
                needs.soft.extend(before.take_while(|word| *word != "post:").map(normal));
            }
        }
        Ok(needs)
    }
}

/// See [`Module::needs`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) hard: Vec<String>,
    pub(super) soft: Vec<String>,
}

/// The one spelling of a module's name.
pub(super) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_MODULE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MODULE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "kernel module is too large"));
    }
    Ok(bytes)
}

/// The section's bytes (ELF-64 object file format, "Sections").
fn modinfo(elf: &[u8]) -> Option<&[u8]> {
    const SECTION_HEADER: usize = 64;
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let table = number(elf, 0x28, 8)?;
    let count = number(elf, 0x3c, 2)?;
    let names_index = number(elf, 0x3e, 2)?;
    let header = |index: usize| {
        let start = table.checked_add(index.checked_mul(SECTION_HEADER)?)?;
        elf.get(start..start.checked_add(SECTION_HEADER)?)
    };
    let content = |header: &[u8]| {
        let start = number(header, 0x18, 8)?;
        elf.get(start..start.checked_add(number(header, 0x20, 8)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let name = names.get(number(header, 0, 4)?..)?;
        name.starts_with(b".modinfo\0").then(|| content(header)).flatten()
    })
}

/// A little-endian number of `width` bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes.get(at..at + width)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// A minimal ELF file with this `.modinfo`.
    pub(crate) fn module_file(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        let (names_at, info_at) = (64, 64 + names.len());
        elf.extend(names);
        elf.extend(modinfo);
        let table = elf.len();
        for (name, start, len) in [(0u32, 0, 0), (1, names_at, names.len()), (11, info_at, modinfo.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            elf.extend(header);
        }
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
        elf[0x3e..0x40].copy_from_slice(&1u16.to_le_bytes());
        elf
    }

    #[test]
    fn needs_are_read_from_every_packing() {
        let plain = module_file(b"license=GPL\0softdep=pre: crc32c a-b post: c\0depends=x-y,z\0name=m\0");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&plain).unwrap();
        let zst = zstd::encode_all(&plain[..], 1).unwrap();
        for packed in [plain.clone(), gz.finish().unwrap(), xz.finish().unwrap(), zst] {
            let module = Module::unpack("m", packed).unwrap();
            assert_eq!(module.bytes, plain);
            let needs = module.needs().unwrap();
            assert_eq!(needs.hard, ["x_y", "z"]);
            assert_eq!(needs.soft, ["crc32c", "a_b"]);
        }
    }

    #[test]
    fn a_damaged_module_is_an_error() {
        let plain = module_file(b"depends=a\0");
        for len in 0..plain.len() - 64 {
            let cut = Module { name: "m".into(), bytes: plain[..len].to_vec() };
            assert!(cut.needs().is_err(), "{len} bytes");
        }
        for at in 0..plain.len() {
            let mut bytes = plain.clone();
            bytes[at] = 0xff;
            let _ = Module { name: "m".into(), bytes }.needs(); // whatever it says, no panic
        }
    }
}
