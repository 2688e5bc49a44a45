//! Images whose files are mounted as volumes (KEP-4639): any manifest, its layers archives over each
//! other, or single files as `oras push` makes them. Of an index, the image for the platform `wasm` is
//! taken, else that of this machine, else one for none.
//!
//! What a name means is remembered as of programs; the manifest itself lies among the contents.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::cache::Known;
use super::index::{Entry, Index, NotFound};
use super::layout::{DOCKER_MANIFEST_TYPE, MANIFEST_TYPE};
use super::pull::{PullError, PullPolicy, Puller, all_failed, invalid, secrets_of};
use super::source::Source;
use super::{MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, Reference, digest_hex, digest_of};

/// Layers of one image, at most.
const MAX_LAYERS: usize = 128;
/// What names the file that a layer is (image-spec, annotations.md).
const TITLE: &str = "org.opencontainers.image.title";

/// What is in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Of the manifest that lists the layers.
    pub digest: String,
    /// The lowest first.
    pub layers: Vec<Layer>,
    /// The manifest is on this node, and no registry was asked.
    pub present: bool,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: String,
    /// Bytes, as the registry sends them.
    pub size: u64,
    pub form: LayerForm,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerForm {
    Tar,
    TarGzip,
    TarZstd,
    /// A single file, and its name.
    File(String),
}

/// Why a manifest lists no files that could be mounted; the message is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    #[error("it is neither a manifest nor an index but {0:?}")]
    Type(String),
    #[error("it is an index of {0}, and none is for this machine")]
    NoneForUs(String),
    #[error("it is an index of an index")]
    Nested,
    #[error("it has {0} layers, and at most {MAX_LAYERS} can be mounted")]
    Layers(usize),
    #[error(
        "layers of type {0:?} cannot be unpacked; tar, gzip and zstd of tar, and single files can"
    )]
    Compression(String),
    #[error("{0:?} is not a sha256 digest")]
    Digest(String),
    #[error("a layer has {0} bytes, more than {MAX_BLOB_BYTES}")]
    LayerTooLarge(u64),
}

/// What a registry has under a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    /// The digest of the manifest for us.
    Index(String),
}

/// A manifest of any image.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its own type, with which it is to be served.
    pub media_type: String,
    pub config_digest: String,
    pub layers: Vec<Layer>,
    /// Whether one of them says that it is a program.
    pub has_wasm: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Text {
    media_type: String,
    manifests: Option<Vec<Entry>>,
    config: Blob,
    layers: Option<Vec<Blob>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Blob {
    media_type: String,
    digest: String,
    size: u64,
    annotations: BTreeMap<String, String>,
}

impl Document {
    /// Reads what a registry has under a name.
    ///
    /// # Errors
    /// Says why nothing of it can be mounted.
    pub fn parse(bytes: &[u8]) -> Result<Document, ContentError> {
        let unreadable = ContentError::Unreadable;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(unreadable(format!("it has more than {MAX_MANIFEST_BYTES} bytes")));
        }
        let text: Text = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
        if let Some(manifests) = text.manifests {
            let index = Index { media_type: text.media_type, manifests };
            return Ok(Document::Index(index.files()?.to_string()));
        }
        let media_type = match &*text.media_type {
            "" | MANIFEST_TYPE => MANIFEST_TYPE,
            DOCKER_MANIFEST_TYPE => DOCKER_MANIFEST_TYPE,
            _ => return Err(ContentError::Type(text.media_type)),
        };
        let Some(layers) = &text.layers else {
            return Err(unreadable("it has no layers".into()));
        };
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(ContentError::Layers(layers.len()));
        }
        if digest_hex(&text.config.digest).is_none() {
            return Err(ContentError::Digest(text.config.digest));
        }
        let has_wasm = layers.iter().any(|layer| layer.media_type.contains("wasm"));
        let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
        let (media_type, config_digest) = (media_type.to_string(), text.config.digest);
        Ok(Document::Manifest(Manifest { media_type, config_digest, layers, has_wasm }))
    }
}

fn layer(blob: &Blob) -> Result<Layer, ContentError> {
    let Some(hex) = digest_hex(&blob.digest) else {
        return Err(ContentError::Digest(blob.digest.clone()));
    };
    if blob.size > MAX_BLOB_BYTES {
        return Err(ContentError::LayerTooLarge(blob.size));
    }
    let media_type = blob.media_type.to_ascii_lowercase();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| media_type.ends_with(suffix));
    let form = if ends(&["tar+gzip", "tar.gzip"]) {
        LayerForm::TarGzip
    } else if ends(&["tar+zstd", "tar.zstd"]) {
        LayerForm::TarZstd
    } else if ends(&[".tar", "/tar", "/x-tar"]) {
        LayerForm::Tar
    } else if media_type.contains("tar+") || media_type.contains("tar.") {
        return Err(ContentError::Compression(blob.media_type.clone()));
    } else {
        // One that names none is found by its digest, as CRI-O has it.
        LayerForm::File(blob.annotations.get(TITLE).map_or(hex, String::as_str).to_string())
    };
    Ok(Layer { digest: blob.digest.clone(), size: blob.size, form })
}

impl From<NotFound> for ContentError {
    fn from(error: NotFound) -> Self {
        match error {
            NotFound::NoneForUs(what) => ContentError::NoneForUs(what),
            NotFound::Digest(digest) => ContentError::Digest(digest),
        }
    }
}

impl Puller {
    /// What is in an image, by the node's own memory or its registry. Its layers are
    /// [loaded](Puller::load) one by one.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn content(
        &self,
        image: &Reference,
        policy: PullPolicy,
        docker_configs: &[Bytes],
    ) -> Result<Content, PullError> {
        let known = self.cache.known(&image.to_string()).await;
        if policy != PullPolicy::Always
            && let Some(known) = &known
            && self.may_use(known, image, docker_configs)
            && let Some(text) = self.cache.get(&known.digest).await
            && let Ok(Document::Manifest(manifest)) = Document::parse(&text)
        {
            let (digest, layers) = (known.digest.clone(), manifest.layers);
            return Ok(Content { digest, layers, present: true });
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(image.to_string()));
        }
        let (text, manifest, secret) = self.ask(image, docker_configs).await?;
        let digest = digest_of(&text);
        let secrets = secrets_of(known.clone(), &digest, secret);
        // The same image may be a program, too.
        let program = known.filter(|known| known.digest == digest).unwrap_or_default();
        let name = image.to_string();
        let known = Known { name, digest: digest.clone(), secrets, ..program };
        let kept = self.cache.put(&digest, text).await;
        if let Err(error) = kept.and(self.cache.remember(&known).await) {
            tracing::warn!(%error, "an image's name is not remembered");
        }
        Ok(Content { digest, layers: manifest.layers, present: false })
    }

    /// The manifest at the first place that answers, and of whose credentials.
    async fn ask(
        &self,
        image: &Reference,
        docker_configs: &[Bytes],
    ) -> Result<(Bytes, Manifest, Option<String>), PullError> {
        let foreign = image.registry.as_ref().map(|registry| self.registry(registry));
        let _place = self.question(image, foreign.as_deref()).await?;
        let mut failures = Vec::new();
        for source in self.sources(image, docker_configs) {
            match read_at(&source).await {
                Ok((text, manifest)) => return Ok((text, manifest, source.secret)),
                Err(error) => failures.push(error),
            }
        }
        Err(all_failed(image, failures))
    }
}

async fn read_at(source: &Source) -> Result<(Bytes, Manifest), PullError> {
    let text = source.manifest(&source.image).await?;
    let (below, manifest) = follow(source, &text).await?;
    Ok((below.unwrap_or(text), manifest))
}

/// The manifest that is meant by what a registry has under a name, and its text where that is an
/// index.
pub(super) async fn follow(
    source: &Source,
    text: &[u8],
) -> Result<(Option<Bytes>, Manifest), PullError> {
    let image = &source.image;
    let read = |text: &[u8]| Document::parse(text).map_err(|error| invalid(image, error));
    let digest = match read(text)? {
        Document::Manifest(manifest) => return Ok((None, manifest)),
        Document::Index(digest) => Some(digest),
    };
    let text = source.manifest(&Reference { digest, ..image.clone() }).await?;
    match read(&text)? {
        Document::Manifest(manifest) => Ok((Some(text), manifest)),
        Document::Index(_) => Err(invalid(image, ContentError::Nested)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn blob(media_type: &str, title: &str) -> Value {
        let mut blob = json!({"mediaType": media_type, "digest": digest_of(b"x"), "size": 1});
        if !title.is_empty() {
            blob["annotations"] = json!({TITLE: title});
        }
        blob
    }

    fn parse(value: &Value) -> Result<Document, ContentError> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn layers_are_archives_or_files() {
        let config = blob("application/vnd.oci.empty.v1+json", "");
        let manifest = |layers: &[Value]| {
            parse(&json!({"schemaVersion": 2, "config": config, "layers": layers}))
        };
        let forms = |layers: &[Value]| match manifest(layers) {
            Ok(Document::Manifest(found)) => found.layers.into_iter().map(|l| l.form).collect(),
            other => panic!("{other:?}"),
        };
        let found: Vec<LayerForm> = forms(&[
            blob("application/vnd.oci.image.layer.v1.tar", ""),
            blob("application/vnd.oci.image.layer.v1.tar+gzip", "dir"),
            blob("application/vnd.docker.image.rootfs.diff.tar.gzip", ""),
            blob("application/vnd.oci.image.layer.v1.tar+zstd", ""),
            blob("application/vnd.docker.image.rootfs.diff.tar.zstd", ""),
            blob("application/x-tar", ""),
            blob("text/plain", "notes/readme.txt"),
            blob("application/octet-stream", ""),
        ]);
        let file = |name: &str| LayerForm::File(name.to_string());
        let digest = digest_of(b"x");
        let hex = digest_hex(&digest).unwrap();
        use LayerForm::{Tar, TarGzip, TarZstd};
        let archives = [Tar, TarGzip, TarGzip, TarZstd, TarZstd, Tar];
        assert_eq!(
            (&found[..6], &found[6..]),
            (&archives[..], &[file("notes/readme.txt"), file(hex)][..])
        );
        let bzip2 = "application/vnd.oci.image.layer.v1.tar+bzip2";
        assert_eq!(manifest(&[blob(bzip2, "")]), Err(ContentError::Compression(bzip2.into())));
        assert_eq!(manifest(&[]), Err(ContentError::Layers(0)));
        let many = vec![blob("text/plain", ""); MAX_LAYERS + 1];
        assert_eq!(manifest(&many), Err(ContentError::Layers(MAX_LAYERS + 1)));
        let mut large = blob("text/plain", "");
        large["size"] = json!(MAX_BLOB_BYTES + 1);
        assert!(matches!(manifest(&[large]), Err(ContentError::LayerTooLarge(_))));
        let mut bad = blob("text/plain", "");
        bad["digest"] = json!("../x");
        assert_eq!(manifest(&[bad]), Err(ContentError::Digest("../x".into())));
        assert!(matches!(parse(&json!({"mediaType": "x"})), Err(ContentError::Type(_))));
        assert!(matches!(parse(&json!([])), Err(ContentError::Unreadable(_))));
    }
}
