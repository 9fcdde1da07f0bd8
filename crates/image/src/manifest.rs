//! The JSON documents of an image: index, manifest and configuration, of the OCI image specification 1.1 and of
//! Docker's schema 2, which differ in media types only.
//!
//! Called by pull and import, with bytes whose digest is already verified but whose author may be hostile.
//! Invariant: pure functions over bounded input; what they return has at most [`MAX_LAYERS`] layers, well-formed
//! digests, and one diff id per layer.

use std::collections::BTreeMap;

use matchlock_model::{Digest, ImageConfig};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::platform::Platform;

/// Largest index, manifest or configuration that is read. Registries accept manifests of 4 MiB
/// (distribution-spec 1.1, "Pushing Manifests").
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of one image; Docker builds at most 127.
pub(crate) const MAX_LAYERS: usize = 512;
/// Most variants listed by one index.
const MAX_VARIANTS: usize = 1024;

/// What a document is not, or holds and must not.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ManifestError {
    #[error("{what} is not valid JSON of its kind: {reason}")]
    Json { what: &'static str, reason: String },
    #[error("the manifest has the old schema {0}; push the image again with a current Docker")]
    OldSchema(u64),
    #[error("no child with platform {wanted} (there is {offered})")]
    NoPlatform { wanted: Platform, offered: String },
    #[error("the image is for {found}, and this machine runs {wanted}")]
    WrongPlatform { found: Platform, wanted: Platform },
    #[error("it is not a container image: one of its layers is of type {0:?}")]
    NotAnImage(String),
    #[error("its index points at another index")]
    NestedIndex,
    #[error("no layers")]
    NoLayers,
    #[error("{found} bytes of layers are more than the limit of {limit}")]
    TooLarge { found: u64, limit: u64 },
    #[error("{found} layers are more than the limit of {MAX_LAYERS}")]
    TooManyLayers { found: usize },
    #[error("the configuration lists {diff_ids} layers and the manifest {layers}")]
    LayerCount { layers: usize, diff_ids: usize },
}

/// What points at a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// One image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// One line of an index.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
    /// The name that an archive gives to it.
    pub(crate) name: Option<String>,
    /// The processor's generation, such as `v8`.
    generation: Option<String>,
}

/// What a registry or archive answers when asked for an image.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Variant>),
}

/// What an image's configuration says.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) platform: Platform,
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: u64,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<RawVariant>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVariant {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawExecution>,
    rootfs: Option<RawRootfs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawExecution {
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl Document {
    /// Read a manifest or an index.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: RawDocument = json("the manifest", bytes)?;
        if raw.schema_version == 1 {
            return Err(ManifestError::OldSchema(raw.schema_version));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), ..) if manifests.len() > MAX_VARIANTS => Err(ManifestError::Json {
                what: "the index",
                reason: format!("{} entries are more than the limit of {MAX_VARIANTS}", manifests.len()),
            }),
            (Some(manifests), ..) => Ok(Self::Index(manifests.into_iter().filter_map(Variant::from_raw).collect())),
            (None, Some(config), Some(layers)) => Manifest::checked(config, layers).map(Self::Manifest),
            _ => Err(ManifestError::Json {
                what: "the manifest",
                reason: "it has neither manifests nor config and layers".to_owned(),
            }),
        }
    }
}

impl Manifest {
    fn checked(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self, ManifestError> {
        if layers.is_empty() {
            return Err(ManifestError::NoLayers);
        }
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers { found: layers.len() });
        }
        let is_tar = |kind: &str| {
            kind.starts_with("application/vnd.oci.image.layer.v1.tar")
                || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar")
        };
        match layers.iter().find(|layer| !is_tar(&layer.media_type)) {
            Some(other) => Err(ManifestError::NotAnImage(other.media_type.chars().take(120).collect())),
            None => Ok(Self { config, layers }),
        }
    }

    /// The bytes of all layers as they are declared, if those are at most `limit`.
    pub(crate) fn packed_bytes(&self, limit: u64) -> Result<u64, ManifestError> {
        let found = self.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        if found > limit { Err(ManifestError::TooLarge { found, limit }) } else { Ok(found) }
    }
}

impl Variant {
    /// `None` for what is no image, such as the attestations that `BuildKit` adds.
    fn from_raw(raw: RawVariant) -> Option<Self> {
        let mut annotations = raw.annotations.unwrap_or_default();
        let attestation = annotations.contains_key("vnd.docker.reference.type");
        let unknown = raw.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if attestation || unknown {
            return None;
        }
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| annotations.remove(*key))
            .filter(|name| !name.is_empty());
        let generation = raw.platform.as_ref().and_then(|platform| platform.variant.clone());
        let platform = raw.platform.map(|raw| Platform { os: raw.os, architecture: raw.architecture });
        Some(Self { descriptor: raw.descriptor, platform, name, generation })
    }
}

/// The variant for `wanted`; among several, the one that asks least of the processor.
pub(crate) fn select<'a>(variants: &'a [Variant], wanted: &Platform) -> Result<&'a Variant, ManifestError> {
    let rank = |variant: &Variant| match variant.generation.as_deref() {
        None | Some("") => 0,
        Some("v1" | "v8") => 1,
        Some(_) => 2,
    };
    let fitting = |variant: &&Variant| variant.platform.as_ref().is_none_or(|platform| platform == wanted);
    variants.iter().filter(fitting).min_by_key(|variant| (variant.platform.is_none(), rank(variant))).ok_or_else(|| {
        let mut offered: Vec<String> =
            variants.iter().filter_map(|variant| variant.platform.as_ref()).map(ToString::to_string).collect();
        offered.sort();
        offered.dedup();
        offered.truncate(12);
        let offered = if offered.is_empty() { "no image at all".to_owned() } else { offered.join(", ") };
        ManifestError::NoPlatform { wanted: wanted.clone(), offered }
    })
}

impl Configuration {
    /// Read an image configuration and hold it against the number of layers that come with it.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let raw: RawConfiguration = json("the image configuration", bytes)?;
        let diff_ids = raw.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
        if diff_ids.len() != layers {
            return Err(ManifestError::LayerCount { layers, diff_ids: diff_ids.len() });
        }
        if diff_ids.is_empty() {
            return Err(ManifestError::NoLayers);
        }
        if diff_ids.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers { found: diff_ids.len() });
        }
        let run = raw.config.unwrap_or_default();
        let env = run.env.unwrap_or_default();
        let config = ImageConfig {
            user: run.user.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: env
                .iter()
                .filter_map(|line| line.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        };
        let os = if raw.os.is_empty() { "linux".to_owned() } else { raw.os };
        Ok(Self { platform: Platform { os, architecture: raw.architecture }, config, diff_ids })
    }

    /// Refuse an image that this machine cannot run. One that names no processor is taken at its word.
    pub(crate) fn require(&self, wanted: &Platform) -> Result<(), ManifestError> {
        let any_processor = self.platform.architecture.is_empty() && self.platform.os == wanted.os;
        if self.platform != *wanted && !any_processor {
            return Err(ManifestError::WrongPlatform { found: self.platform.clone(), wanted: wanted.clone() });
        }
        Ok(())
    }
}

/// The digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

pub(crate) fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| ManifestError::Json { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn index(entries: &[(&str, &str)]) -> Vec<Variant> {
        let entries: Vec<String> = entries
            .iter()
            .enumerate()
            .map(|(size, (platform, annotations))| {
                format!(r#"{{"digest":"{DIGEST}","size":{size},"platform":{platform},"annotations":{annotations}}}"#)
            })
            .collect();
        match Document::parse(format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).as_bytes()) {
            Ok(Document::Index(variants)) => variants,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_demanding_variant_for_the_platform_is_taken() {
        let amd64 = Platform { os: "linux".into(), architecture: "amd64".into() };
        let variants = index(&[
            (r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#, "{}"),
            (r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#, "null"),
            (r#"{"os":"linux","architecture":"amd64"}"#, "{}"),
            (r#"{"os":"unknown","architecture":"unknown"}"#, r#"{"vnd.docker.reference.type":"attestation-manifest"}"#),
        ]);
        assert_eq!(variants.len(), 3);
        assert_eq!(select(&variants, &amd64).unwrap().descriptor.size, 2);
        let riscv = Platform { os: "linux".into(), architecture: "riscv64".into() };
        insta::assert_snapshot!(select(&variants, &riscv).unwrap_err(), @"no child with platform linux/riscv64 (there is linux/amd64, linux/arm64)");
    }

    #[test]
    fn layers_that_would_fill_a_disk_are_refused_by_what_they_declare() {
        let layer = |size: u64| {
            format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{DIGEST}","size":{size}}}"#)
        };
        let packed_bytes = |sizes: [u64; 2]| {
            let [one, two] = sizes.map(layer);
            match Document::parse(format!(r#"{{"config":{one},"layers":[{one},{two}]}}"#).as_bytes()) {
                Ok(Document::Manifest(manifest)) => manifest.packed_bytes(100),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(packed_bytes([99, 1]), Ok(100));
        assert_eq!(packed_bytes([100, 1]), Err(ManifestError::TooLarge { found: 101, limit: 100 }));
        assert_eq!(packed_bytes([u64::MAX, u64::MAX]), Err(ManifestError::TooLarge { found: u64::MAX, limit: 100 }));
    }

    #[test]
    fn configurations_map_as_docker_means_them() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},
            "config":{{"User":"app","WorkingDir":"/srv","Entrypoint":null,"Cmd":["a","b"],"Env":["A=1","B","A=2=3"],"Labels":{{}}}}}}"#
        );
        let configuration = Configuration::parse(text.as_bytes(), 1).unwrap();
        insta::assert_snapshot!(serde_json::to_string(&configuration.config).unwrap(), @r#"{"user":"app","working_dir":"/srv","cmd":["a","b"],"env":{"A":"2=3"}}"#);
        let arm = Platform { os: "linux".into(), architecture: "arm64".into() };
        insta::assert_snapshot!(configuration.require(&arm).unwrap_err(), @"the image is for linux/amd64, and this machine runs linux/arm64");
    }

    #[test]
    fn documents_of_other_kinds_are_refused_by_name() {
        let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":1}}"#);
        let manifest = |layers: &str| format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, layer("c"));
        let documents = [
            "[]".to_owned(),
            "{}".to_owned(),
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            manifest(""),
            manifest(&layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip")),
            manifest(r#"{"digest":"sha256:../../x","size":1}"#),
            manifest(&vec![layer("application/vnd.oci.image.layer.v1.tar"); MAX_LAYERS + 1].join(",")),
        ];
        let lines: String =
            documents.iter().map(|text| Document::parse(text.as_bytes()).unwrap_err().to_string() + "\n").collect();
        insta::assert_snapshot!(lines, @r#"
        the manifest is not valid JSON of its kind: invalid length 1, expected struct RawDocument with 4 elements at line 1 column 2
        the manifest is not valid JSON of its kind: it has neither manifests nor config and layers
        the manifest has the old schema 1; push the image again with a current Docker
        no layers
        it is not a container image: one of its layers is of type "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
        the manifest is not valid JSON of its kind: invalid digest "sha256:../../x" (expected sha256: and 64 hex digits) at line 1 column 174
        513 layers are more than the limit of 512
        "#);
    }
}
