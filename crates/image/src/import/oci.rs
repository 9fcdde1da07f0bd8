//! An OCI image layout in a tar (image-spec 1.1, "Image Layout"): `index.json` and `blobs/sha256/<hex>`.

use matchlock_model::Digest;

use crate::{
    import::{Archive, ArchiveError, Contained},
    manifest::{Configuration, Descriptor, Document, MAX_DOCUMENT, Manifest, Variant, select, sha256},
    platform::Platform,
};

pub(super) const INDEX: &str = "index.json";
/// Most indexes within indexes.
const MAX_DEPTH: usize = 4;

/// The image for `platform`; several with different names are an error.
pub(super) fn find(archive: &Archive, platform: &Platform) -> Result<Contained, ArchiveError> {
    let mut bytes = archive.small(INDEX, MAX_DOCUMENT)?;
    for _ in 0..MAX_DEPTH {
        match Document::parse(&bytes)? {
            Document::Index(variants) => bytes = blob(archive, &choose(&variants, platform)?.descriptor)?,
            Document::Manifest(manifest) => {
                let contained = describe(archive, &manifest, sha256(&bytes))?;
                contained.configuration.require(platform)?;
                return Ok(contained);
            }
        }
    }
    Err(ArchiveError::LinkLoop(INDEX.to_owned()))
}

/// The only image there is, whatever its platform, or the only one for ours.
fn choose<'a>(variants: &'a [Variant], platform: &Platform) -> Result<&'a Variant, ArchiveError> {
    let fits = |variant: &&Variant| variant.platform.as_ref().is_none_or(|found| found == platform);
    let fitting: Vec<&Variant> = variants.iter().filter(fits).collect();
    // Variants of one image share a name or have none; different names are different images.
    let mut names: Vec<&str> = fitting.iter().filter_map(|variant| variant.name.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let unnamed = fitting.iter().filter(|variant| variant.name.is_none() && variant.platform.is_none());
    let same = fitting.iter().all(|variant| variant.descriptor.digest == fitting[0].descriptor.digest);
    if !same && names.len() + unnamed.count() > 1 {
        let name = |variant: &&Variant| match &variant.name {
            Some(name) => name.clone(),
            None => variant.descriptor.digest.to_string(),
        };
        return Err(ArchiveError::Several { choices: fitting.iter().map(name).collect() });
    }
    match variants {
        [only] => Ok(only),
        variants => Ok(select(variants, platform)?),
    }
}

fn describe(archive: &Archive, manifest: &Manifest, digest: Digest) -> Result<Contained, ArchiveError> {
    let configuration = Configuration::parse(&blob(archive, &manifest.config)?, manifest.layers.len())?;
    let layer = |descriptor: &Descriptor| {
        let name = path(descriptor);
        let span = archive.open(&name)?;
        if span.length() == descriptor.size {
            Ok(span)
        } else {
            Err(ArchiveError::WrongSize { name, found: span.length(), expected: descriptor.size })
        }
    };
    let layers = manifest.layers.iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Contained { digest, configuration, layers })
}

/// A small blob that is what its digest says.
fn blob(archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
    let name = path(descriptor);
    let bytes = archive.small(&name, MAX_DOCUMENT)?;
    let found = sha256(&bytes);
    if found == descriptor.digest {
        Ok(bytes)
    } else {
        Err(ArchiveError::WrongDigest { name, found, expected: descriptor.digest })
    }
}

fn path(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}
