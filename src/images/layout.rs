//! How a program lies in a registry: a manifest with one layer of Wasm.
//!
//! What is pushed from here has the CNCF Wasm OCI artifact layout
//! (tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact). Accepted is every manifest whose
//! only layer is Wasm, whatever its config: the layouts of wasm-pkg, of wasm-to-oci, of the Wasm
//! image specification, and what `oras push app.wasm:application/wasm` makes. Of an index, the
//! program for the platform `wasm` is taken.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::artifact;

use super::index::{self, Entry, Index, NotFound};
use super::{MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, digest_hex, digest_of};

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_TYPE: &str = "application/wasm";
pub const DOCKER_MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What registries are asked for; images of containers too, so that the answer can be explained.
pub const MANIFEST_TYPES: &[&str] =
    &[MANIFEST_TYPE, index::OCI_TYPE, DOCKER_MANIFEST_TYPE, index::DOCKER_TYPE];
/// Types of a layer that is one Wasm program.
const LAYER_TYPES: &[&str] = &[
    WASM_TYPE,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// The same bytes give the same manifest and digest, whenever they are pushed: so no real date.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Magic and version of core modules; components have another version.
const CORE_MODULE: &[u8; 8] = b"\0asm\x01\0\0\0";

/// A blob as a manifest names it (image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// An image manifest (image-spec, manifest.md); what is not read here is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// The config of a Wasm artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub created: String,
    /// Always `wasm`.
    pub architecture: String,
    /// `wasip1` for core modules, `wasip2` for components.
    pub os: String,
    #[serde(default)]
    pub layer_digests: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Interfaces>,
}

/// What a component imports and exports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    #[serde(default)]
    pub exports: Vec<String>,
    #[serde(default)]
    pub imports: Vec<String>,
}

/// Everything that is pushed for one program.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub wasm: Bytes,
    pub config: Bytes,
    pub manifest: Bytes,
    /// Of the manifest.
    pub digest: String,
    pub wasm_digest: String,
    pub config_digest: String,
}

/// What a name in a registry leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A program's manifest.
    Manifest(Manifest),
    /// An index; the digest of the manifest that is for us.
    Index(String),
}

/// Why a manifest is not one of a Wasm artifact; the message is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    #[error("the manifest has {0} bytes, more than {MAX_MANIFEST_BYTES}")]
    TooLarge(usize),
    #[error("it is not WebAssembly but {0:?}")]
    NotWasm(String),
    #[error("it is an index of {0}, and none is for the platform wasm")]
    NoneForUs(String),
    #[error("it is an index of an index")]
    Nested,
    #[error(
        "a program is one layer of type {WASM_TYPE}, or one with the file that the entrypoint names; \
         this one has {0} (`wasmctl push FILE NAME:TAG` makes an image of a program)"
    )]
    Layers(String),
    #[error("{0:?} is not a sha256 digest")]
    Digest(String),
    #[error("the layer has {0} bytes, more than {MAX_BLOB_BYTES}")]
    LayerTooLarge(u64),
}

impl LayoutError {
    /// It is a whole manifest of something else, and not what a registry may say once: a page in
    /// HTML, for instance.
    pub fn is_verdict(&self) -> bool {
        match self {
            LayoutError::Unreadable(_) | LayoutError::TooLarge(_) | LayoutError::Digest(_) => false,
            LayoutError::NotWasm(media_type) => media_type.starts_with("application/vnd."),
            LayoutError::NoneForUs(_)
            | LayoutError::Nested
            | LayoutError::Layers(_)
            | LayoutError::LayerTooLarge(_) => true,
        }
    }
}

impl Interfaces {
    /// Of a program; none of what cannot be read, which the registry will refuse with a reason.
    pub fn of(wasm: &[u8]) -> Interfaces {
        let found = artifact::inspect(wasm).ok();
        found.map_or_else(Interfaces::default, |found| Interfaces {
            exports: found.exports,
            imports: found.imports,
        })
    }
}

impl Document {
    /// Reads what a registry has under a name.
    ///
    /// # Errors
    /// Says what it is, if it leads to no Wasm artifact.
    pub fn parse(bytes: &[u8]) -> Result<Document, LayoutError> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(LayoutError::TooLarge(bytes.len()));
        }
        // An index has no config: say what it is rather than which field is missing.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            #[serde(default)]
            media_type: String,
            #[serde(default)]
            manifests: Option<Vec<Entry>>,
        }
        let unreadable = |e: serde_json::Error| LayoutError::Unreadable(e.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if let Some(manifests) = head.manifests {
            let index = Index { media_type: head.media_type, manifests };
            return Ok(Document::Index(index.program()?.to_string()));
        }
        if !matches!(&*head.media_type, "" | MANIFEST_TYPE) {
            return Err(LayoutError::NotWasm(head.media_type));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        manifest.check()?;
        Ok(Document::Manifest(manifest))
    }
}

impl From<NotFound> for LayoutError {
    fn from(error: NotFound) -> Self {
        match error {
            NotFound::NoneForUs(what) => LayoutError::NoneForUs(what),
            NotFound::Digest(digest) => LayoutError::Digest(digest),
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), LayoutError> {
        let [layer] = &self.layers[..] else {
            return Err(LayoutError::Layers(format!("{} layers", self.layers.len())));
        };
        if !LAYER_TYPES.contains(&&*layer.media_type) {
            return Err(LayoutError::Layers(format!("one of type {:?}", layer.media_type)));
        }
        for descriptor in [&self.config, layer] {
            if digest_hex(&descriptor.digest).is_none() {
                return Err(LayoutError::Digest(descriptor.digest.clone()));
            }
        }
        if layer.size > MAX_BLOB_BYTES {
            return Err(LayoutError::LayerTooLarge(layer.size));
        }
        Ok(())
    }

    /// The layer of Wasm. `None` cannot happen to a manifest that [`Document::parse`] accepted.
    pub fn wasm(&self) -> Option<&Descriptor> {
        self.layers.first()
    }
}

impl Artifact {
    /// The blobs and the manifest for a program. `interfaces` is what it imports and exports; a
    /// core module's are not written.
    pub fn new(wasm: Bytes, interfaces: Interfaces) -> Artifact {
        let wasm_digest = digest_of(&wasm);
        let is_module = wasm.starts_with(CORE_MODULE);
        let config = Config {
            created: CREATED.into(),
            architecture: "wasm".into(),
            os: if is_module { "wasip1" } else { "wasip2" }.into(),
            layer_digests: vec![wasm_digest.clone()],
            component: (!is_module).then_some(interfaces),
        };
        let config = json(&config);
        let config_digest = digest_of(&config);
        let descriptor = |media_type: &str, digest: &str, bytes: &Bytes| Descriptor {
            media_type: media_type.into(),
            digest: digest.into(),
            size: bytes.len() as u64,
        };
        let manifest = json(&Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.into(),
            config: descriptor(CONFIG_TYPE, &config_digest, &config),
            layers: vec![descriptor(WASM_TYPE, &wasm_digest, &wasm)],
        });
        let digest = digest_of(&manifest);
        Artifact { wasm, config, manifest, digest, wasm_digest, config_digest }
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Structs with text keys always serialise.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layers: &[&str]) -> Vec<u8> {
        let digest = digest_of(b"x");
        let blob = |kind: &str| serde_json::json!({"mediaType": kind, "digest": digest, "size": 1});
        let layers: Vec<_> = layers.iter().map(|kind| blob(kind)).collect();
        serde_json::json!({"schemaVersion": 2, "config": blob(config), "layers": layers})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn any_config_and_one_layer_of_wasm_is_accepted() {
        let empty = "application/vnd.oci.empty.v1+json";
        for (config, layer) in [
            (CONFIG_TYPE, WASM_TYPE),
            (empty, WASM_TYPE),
            ("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm"),
        ] {
            assert!(Document::parse(&manifest(config, &[layer])).is_ok(), "{config} {layer}");
        }
        let image = "application/vnd.oci.image.config.v1+json";
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let error = Document::parse(&manifest(image, &[tar])).expect_err("an image");
        assert_eq!(
            error.to_string(),
            format!(
                "a program is one layer of type {WASM_TYPE}, or one with the file that the entrypoint \
                 names; this one has one of type {tar:?} (`wasmctl push FILE NAME:TAG` makes an image \
                 of a program)"
            )
        );
        let two = Document::parse(&manifest(CONFIG_TYPE, &[WASM_TYPE, WASM_TYPE]));
        assert_eq!(two, Err(LayoutError::Layers("2 layers".into())));
        let docker = br#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#;
        assert!(matches!(Document::parse(docker), Err(LayoutError::NotWasm(_))));
    }

    #[test]
    fn of_an_index_the_platform_wasm_is_taken() {
        let index = |architecture: &str, digest: &str| {
            let platform = serde_json::json!({"architecture": architecture, "os": "wasip1"});
            let entry = serde_json::json!({"digest": digest, "platform": platform});
            let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
            Document::parse(index.to_string().as_bytes())
        };
        let digest = digest_of(b"x");
        assert_eq!(index("wasm", &digest), Ok(Document::Index(digest.clone())));
        assert_eq!(index("wasm", "../etc"), Err(LayoutError::Digest("../etc".into())));
        assert_eq!(
            index("amd64", &digest).expect_err("for another platform").to_string(),
            "it is an index of one image (wasip1/amd64), and none is for the platform wasm"
        );
    }
}
