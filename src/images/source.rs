//! One place where an image may be: the cluster's own registry, another one, or a mirror; and what an
//! image's name means there.
//!
//! What a place says wrongly may be right at the next try. Final is only what is verified: bytes of the
//! digest that was asked for, or a whole manifest of something that is no program.

use bytes::Bytes;
use serde::Deserialize;

use super::content::{self, Layer};
use super::layout::{Document, LayoutError};
use super::pull::{Host, PullError, invalid, network};
use super::registries::{Candidate, Registries};
use super::{MAX_MANIFEST_BYTES, Reference, credentials, digest_of, foreign};
use crate::api::ApiError;
use crate::client::SharedApi;

/// What a name means at one place.
pub(super) struct Described {
    /// Of the manifest, or the index, under the name.
    pub digest: String,
    pub meaning: Meaning,
    /// Of the credentials that were used.
    pub secret: Option<String>,
}

/// What an image is.
pub(super) enum Meaning {
    /// One layer that is the program.
    Program { wasm_digest: String, size: u64 },
    /// One layer that may have the program among its files; see [`Source::unpacked`].
    Packed,
}

/// One place where an image may be.
pub(super) struct Source {
    pub image: Reference,
    api: SharedApi,
    /// See [`credentials::fingerprint`].
    pub secret: Option<String>,
    /// `None`: the cluster's own registry.
    foreign: Option<foreign::Registry>,
}

impl Source {
    pub fn new(
        api: &SharedApi,
        settings: &Registries,
        candidate: Candidate,
        docker_configs: &[Bytes],
    ) -> Source {
        let mut secret = None;
        let foreign = candidate.image.registry.as_ref().map(|registry| {
            let settings = settings.settings(registry);
            let auth = foreign::auth(&candidate.image, &settings, docker_configs);
            secret = credentials::fingerprint(&candidate.image, &auth);
            foreign::Registry::new(&candidate, settings, auth)
        });
        Source { image: candidate.image, api: api.clone(), secret, foreign }
    }

    /// What the name means here.
    pub async fn describe(&self) -> Result<Described, PullError> {
        let text = self.manifest(&self.image).await?;
        let digest = digest_of(&text);
        let meaning = match Document::parse(&text) {
            Ok(Document::Manifest(manifest)) => self.program(manifest.wasm()),
            Ok(Document::Index(chosen)) => {
                let image = Reference { digest: Some(chosen), ..self.image.clone() };
                let below = self.manifest(&image).await?;
                match Document::parse(&below) {
                    Ok(Document::Manifest(manifest)) => self.program(manifest.wasm()),
                    Ok(Document::Index(_)) => Err(invalid(&image, LayoutError::Nested)),
                    Err(why) => self.packed(&text, &image, why).await,
                }
            }
            Err(why) => self.packed(&text, &self.image, why).await,
        };
        Ok(Described { digest, meaning: meaning?, secret: self.secret.clone() })
    }

    fn program(&self, layer: Option<&super::layout::Descriptor>) -> Result<Meaning, PullError> {
        match layer {
            Some(layer) => {
                Ok(Meaning::Program { wasm_digest: layer.digest.clone(), size: layer.size })
            }
            None => Err(invalid(&self.image, LayoutError::Layers("none".into()))),
        }
    }

    /// Whether an image of files may have a program among them. `why` is why the manifest of `image`
    /// is no program's.
    async fn packed(
        &self,
        text: &[u8],
        image: &Reference,
        why: LayoutError,
    ) -> Result<Meaning, PullError> {
        let files = match content::follow(self, text).await {
            Ok((_, files)) => files,
            Err(PullError::Invalid { .. }) => return Err(judged(image, why)),
            Err(error) => return Err(error),
        };
        match (only_layer(&files), &why) {
            (Some(_), _) => Ok(Meaning::Packed),
            (None, LayoutError::NotWasm(_)) => {
                let layers = format!("{} layers", files.layers.len());
                Err(invalid(image, LayoutError::Layers(layers)))
            }
            (None, _) => Err(judged(image, why)),
        }
    }

    /// The program in the only layer of an image of files: the file that its entrypoint names, or the
    /// only one there (what `FROM scratch` and `COPY app.wasm /` make).
    pub async fn unpacked(&self, host: &dyn Host) -> Result<Bytes, PullError> {
        let text = self.manifest(&self.image).await?;
        let (_, files) = content::follow(self, &text).await?;
        let Some(layer) = only_layer(&files) else {
            let layers = format!("{} layers", files.layers.len());
            return Err(invalid(&self.image, LayoutError::Layers(layers)));
        };
        let config = self.verified(&files.config_digest, MAX_MANIFEST_BYTES).await?;
        let bytes = self.verified(&layer.digest, layer.size).await?;
        let found = host.program(&layer.form, bytes, entry(&config)).await;
        found.map_err(|why| match Document::parse(&text) {
            // Nobody meant it to be a program: what is there instead is the smaller part of the reason.
            Err(none @ LayoutError::NoneForUs(_)) => {
                invalid(&self.image, format!("{none}; in the one for this machine, {why}"))
            }
            _ => invalid(&self.image, why),
        })
    }

    async fn verified(&self, digest: &str, max_bytes: u64) -> Result<Bytes, PullError> {
        let bytes = self.blob(digest, max_bytes).await?;
        match digest_of(&bytes) {
            actual if actual == digest => Ok(bytes),
            actual => Err(network(&self.image, format!("its registry sent {actual} for {digest}"))),
        }
    }

    /// The manifest of a name; of the digest that it asks for, if it has one.
    pub async fn manifest(&self, image: &Reference) -> Result<Bytes, PullError> {
        let text = match &self.foreign {
            Some(foreign) => foreign.manifest(image).await?,
            None => self.own(&format!("manifests/{}", image.version())).await?,
        };
        let digest = digest_of(&text);
        match image.digest.as_ref().filter(|wanted| **wanted != digest) {
            Some(wanted) => Err(network(image, format!("its registry sent {digest} for {wanted}"))),
            None => Ok(text),
        }
    }

    pub async fn blob(&self, digest: &str, max_bytes: u64) -> Result<Bytes, PullError> {
        match &self.foreign {
            Some(foreign) => foreign.blob(&self.image, digest, max_bytes).await,
            None => self.own(&format!("blobs/{digest}")).await,
        }
    }

    async fn own(&self, rest: &str) -> Result<Bytes, PullError> {
        let path = format!("/v2/{}/{rest}", self.image.repository);
        self.api.get_bytes(&path).await.map_err(|error| of_api(&self.image, error))
    }
}

/// The layer of an image of files that has only one, and none that says that it is a program.
fn only_layer(files: &content::Manifest) -> Option<&Layer> {
    match &files.layers[..] {
        [layer] if !files.has_wasm => Some(layer),
        _ => None,
    }
}

/// The path of the file that an image's config runs (image-spec, config.md), from its root.
fn entry(config: &[u8]) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Config {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        working_dir: Option<String>,
    }
    #[derive(Deserialize)]
    struct Image {
        config: Config,
    }
    // The config of what is no container's image says nothing.
    let Image { config } = serde_json::from_slice(config).ok()?;
    let words = config.entrypoint.into_iter().flatten().chain(config.cmd.into_iter().flatten());
    let first = words.into_iter().next()?;
    match first.starts_with('/') {
        true => Some(first),
        false => Some(format!("{}/{first}", config.working_dir.unwrap_or_default())),
    }
}

/// Why a manifest of a name is no program's, and whether that may be better at the next try.
fn judged(image: &Reference, why: LayoutError) -> PullError {
    match image.digest.is_some() || why.is_verdict() {
        true => invalid(image, why),
        false => network(image, why),
    }
}

fn of_api(image: &Reference, error: ApiError) -> PullError {
    let name = image.to_string();
    match error.code {
        404 => PullError::NotFound(name),
        401 | 403 => PullError::Unauthorized { name, why: error.message },
        _ => PullError::Network { name, why: error.message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_s_entry_is_a_path_from_its_root() {
        let of = |config: &str| entry(config.as_bytes());
        let both = r#"{"config":{"Entrypoint":["/app.wasm","x"],"Cmd":["y"]}}"#;
        assert_eq!(of(both).as_deref(), Some("/app.wasm"));
        let relative = r#"{"config":{"Cmd":["app.wasm"],"WorkingDir":"/srv","Entrypoint":null}}"#;
        assert_eq!(of(relative).as_deref(), Some("/srv/app.wasm"));
        for none in ["{}", r#"{"config":{}}"#, r#"{"config":{"Entrypoint":[]}}"#, "no json"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
