//! `manifest.json` of `docker save` (image-spec v1.2 of the Moby project, "Combined Image JSON + Filesystem Changeset
//! Format"), as written by Docker of any age, Podman and skopeo.

use matchlock_model::Digest;
use serde::Deserialize;

use crate::{
    import::{Archive, ArchiveError, Contained},
    manifest::{Configuration, MAX_DOCUMENT, MAX_LAYERS, ManifestError, json, sha256},
    platform::Platform,
};

pub(super) const MANIFEST: &str = "manifest.json";
/// Most images that one archive lists.
const MAX_IMAGES: usize = 1024;

/// One image of the list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The image for `platform`; several are an error, unless they are the same one for several platforms.
pub(super) fn find(archive: &Archive, platform: &Platform) -> Result<Contained, ArchiveError> {
    let listed = parse(&archive.small(MANIFEST, MAX_DOCUMENT)?)?;
    let mut images: Vec<(Vec<String>, Contained)> = Vec::new();
    let mut unfit = None;
    for image in &listed {
        let contained = describe(archive, image)?;
        match contained.configuration.require(platform) {
            Ok(()) if images.iter().any(|(_, other)| other.digest == contained.digest) => {}
            Ok(()) => images.push((image.repo_tags.clone().unwrap_or_default(), contained)),
            Err(error) => unfit = Some(error),
        }
    }
    match (images.pop(), images.is_empty(), unfit) {
        (Some((_, image)), true, _) => Ok(image),
        (Some(last), false, _) => {
            images.push(last);
            let name = |(tags, image): &(Vec<String>, Contained)| match tags.first() {
                Some(tag) => tag.clone(),
                None => image.digest.to_string(),
            };
            Err(ArchiveError::Several { choices: images.iter().map(name).collect() })
        }
        (None, _, Some(error)) => Err(error.into()),
        (None, _, None) => Err(ArchiveError::NotAnImage),
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Listed>, ManifestError> {
    let listed: Vec<Listed> = json(MANIFEST, bytes)?;
    if listed.len() > MAX_IMAGES {
        return Err(ManifestError::Json { what: MANIFEST, reason: format!("it lists more than {MAX_IMAGES} images") });
    }
    match listed.iter().map(|image| image.layers.len()).max() {
        Some(found) if found > MAX_LAYERS => Err(ManifestError::TooManyLayers { found }),
        _ => Ok(listed),
    }
}

fn describe(archive: &Archive, image: &Listed) -> Result<Contained, ArchiveError> {
    let bytes = archive.small(&image.config, MAX_DOCUMENT)?;
    let digest = sha256(&bytes);
    // `<hex>.json`, or `blobs/sha256/<hex>` since Docker 25. Other names promise nothing.
    let file = image.config.rsplit('/').next().unwrap_or_default();
    let stated = format!("sha256:{}", file.strip_suffix(".json").unwrap_or(file)).parse::<Digest>();
    if let Some(expected) = stated.ok().filter(|stated| *stated != digest) {
        return Err(ArchiveError::WrongDigest { name: image.config.clone(), found: digest, expected });
    }
    let configuration = Configuration::parse(&bytes, image.layers.len())?;
    let layers = image.layers.iter().map(|name| archive.open(name)).collect::<Result<_, _>>()?;
    Ok(Contained { digest, configuration, layers })
}
