//! The CNCF Wasm OCI artifact layout: one config, one layer of Wasm
//! (tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, digest_hex, digest_of};

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_TYPE: &str = "application/wasm";

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

/// Why a manifest is not one of a Wasm artifact; the message is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    #[error("the manifest has {0} bytes, more than {MAX_MANIFEST_BYTES}")]
    TooLarge(usize),
    #[error("it is not WebAssembly but {0:?}; a Wasm artifact has a config of type {CONFIG_TYPE}")]
    NotWasm(String),
    #[error("a Wasm artifact has one layer of type {WASM_TYPE}; this one has {0}")]
    Layers(String),
    #[error("{0:?} is not a sha256 digest")]
    Digest(String),
    #[error("the layer has {0} bytes, more than {MAX_BLOB_BYTES}")]
    LayerTooLarge(u64),
}

impl Manifest {
    /// Reads a manifest and checks that it is a Wasm artifact's.
    ///
    /// # Errors
    /// Says what it is instead.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, LayoutError> {
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
            manifests: Option<serde_json::Value>,
        }
        let unreadable = |e: serde_json::Error| LayoutError::Unreadable(e.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if head.manifests.is_some() {
            let index = "an index of several images".to_string();
            return Err(LayoutError::NotWasm(index));
        }
        if !matches!(&*head.media_type, "" | MANIFEST_TYPE) {
            return Err(LayoutError::NotWasm(head.media_type));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), LayoutError> {
        if self.config.media_type != CONFIG_TYPE {
            return Err(LayoutError::NotWasm(self.config.media_type.clone()));
        }
        let [layer] = &self.layers[..] else {
            return Err(LayoutError::Layers(format!("{} layers", self.layers.len())));
        };
        if layer.media_type != WASM_TYPE {
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

    /// The layer of Wasm. `None` cannot happen to a manifest that [`Manifest::parse`] accepted.
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
