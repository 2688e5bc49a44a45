//! What the node needs of images: a name becomes a digest, and where its code is not ready yet, Wasm
//! bytes; of those that are mounted as volumes, layers. [`Puller`] of the room `images` is one; tests have their own.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use crate::images::content::{Layer, LayerForm};
use crate::images::{self, Puller, Reference};
use crate::runtime::Runtime;
use crate::volumes::program;
use crate::volumes::unpack::Form;

/// When to ask the registry (core/v1 Container.imagePullPolicy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The policy of a container; unset is the API's default for a tagged image.
    pub fn of(text: Option<&str>) -> PullPolicy {
        match text {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

/// One image to be pulled.
#[derive(Clone, Debug)]
pub struct PullRequest<'a> {
    pub image: &'a str,
    pub policy: PullPolicy,
    /// The contents of the pod's imagePullSecrets (`.dockerconfigjson`).
    pub docker_configs: &'a [Bytes],
}

/// What an image's name means.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// `name@sha256:…`, for the status.
    pub image_id: String,
    /// `sha256:…` of the Wasm bytes; what compiled code is kept by.
    pub wasm_digest: String,
    /// Length of the Wasm bytes; 0: not known.
    pub size_bytes: u64,
    /// It is on this node, and no registry was asked.
    pub present: bool,
}

/// What is in an image that is mounted as a volume.
#[derive(Clone, Debug)]
pub struct ContentImage {
    /// `sha256:…` of the manifest that lists the layers.
    pub digest: String,
    /// The lowest first.
    pub layers: Vec<ContentLayer>,
}

#[derive(Clone, Debug)]
pub struct ContentLayer {
    /// `sha256:…`.
    pub digest: String,
    pub size: u64,
    pub form: Form,
}

/// A program or a layer in memory; to be dropped once its code or its files are ready.
pub struct LoadedImage {
    pub bytes: Bytes,
    /// Its place among the artifacts that may be in memory.
    pub place: Box<dyn Any + Send>,
}

/// Why an image is not here; the messages are for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The name cannot be one of an image.
    #[error("{0}")]
    InvalidName(String),
    /// Policy Never, and it is not here.
    #[error("{0}")]
    NotPresent(String),
    /// It was found, and is not Wasm.
    #[error("{0}")]
    NotWasm(String),
    /// Anything that may be better at the next try.
    #[error("{0}")]
    Failed(String),
}

impl PullError {
    /// The Waiting reason, and whether another try may help (kubelet's images/types.go).
    pub fn reason(&self) -> (&'static str, bool) {
        match self {
            PullError::InvalidName(_) => ("InvalidImageName", false),
            PullError::NotPresent(_) => ("ErrImageNeverPull", true),
            PullError::NotWasm(_) => ("InvalidModule", false),
            PullError::Failed(_) => ("ErrImagePull", true),
        }
    }
}

/// Gets images. Concurrent loads of one image should be one.
#[async_trait::async_trait]
pub trait Images: Send + Sync + 'static {
    /// Says what a name means; asks its registry where the policy wants it.
    async fn resolve(&self, request: &PullRequest<'_>) -> Result<ResolvedImage, PullError>;

    /// Gets the bytes of a resolved image.
    async fn load(
        &self,
        request: &PullRequest<'_>,
        image: &ResolvedImage,
    ) -> Result<LoadedImage, PullError>;

    /// Says what is in an image that is mounted as a volume; asks its registry where the policy wants
    /// it.
    async fn content(&self, request: &PullRequest<'_>) -> Result<ContentImage, PullError>;

    /// Gets the bytes of one of its layers.
    async fn layer(
        &self,
        request: &PullRequest<'_>,
        layer: &ContentLayer,
    ) -> Result<LoadedImage, PullError>;
}

#[async_trait::async_trait]
impl Images for Puller {
    async fn resolve(&self, request: &PullRequest<'_>) -> Result<ResolvedImage, PullError> {
        let name = reference(request)?;
        let resolved = Puller::resolve(self, &name, policy(request), request.docker_configs);
        let images::Resolved { digest, wasm_digest, size, present } = resolved.await?;
        let image_id = name.image_id(&digest);
        Ok(ResolvedImage { image_id, wasm_digest, size_bytes: size, present })
    }

    async fn load(
        &self,
        request: &PullRequest<'_>,
        image: &ResolvedImage,
    ) -> Result<LoadedImage, PullError> {
        let (name, configs) = (reference(request)?, request.docker_configs);
        let (digest, size) = (&image.wasm_digest, image.size_bytes);
        let program = Puller::load(self, &name, policy(request), configs, digest, size).await?;
        Ok(LoadedImage { bytes: program.wasm.clone(), place: Box::new(program) })
    }

    async fn content(&self, request: &PullRequest<'_>) -> Result<ContentImage, PullError> {
        let name = reference(request)?;
        let found = Puller::content(self, &name, policy(request), request.docker_configs).await;
        let found = found.map_err(of_content)?;
        let layers = found.layers.into_iter().map(|Layer { digest, size, form }| ContentLayer {
            digest,
            size,
            form: form_of(&form),
        });
        Ok(ContentImage { digest: found.digest, layers: layers.collect() })
    }

    async fn layer(
        &self,
        request: &PullRequest<'_>,
        layer: &ContentLayer,
    ) -> Result<LoadedImage, PullError> {
        let (name, configs) = (reference(request)?, request.docker_configs);
        let ContentLayer { digest, size, .. } = layer;
        let loaded = Puller::load(self, &name, policy(request), configs, digest, *size).await;
        let loaded = loaded.map_err(of_content)?;
        Ok(LoadedImage { bytes: loaded.wasm.clone(), place: Box::new(loaded) })
    }
}

/// What a puller asks of its node: the code that its runtime has, and how layers are unpacked.
pub struct Machine(pub Arc<dyn Runtime>);

#[async_trait::async_trait]
impl images::Host for Machine {
    async fn has_code(&self, wasm_digest: &str) -> bool {
        // Checked and loaded, which is what comes next.
        self.0.prepared(wasm_digest).await.is_some()
    }

    async fn program(
        &self,
        form: &LayerForm,
        layer: Bytes,
        entry: Option<String>,
    ) -> Result<Bytes, String> {
        let form = form_of(form);
        let find = move || program::find(&form, &layer, entry.as_deref(), images::MAX_BLOB_BYTES);
        let found = tokio::task::spawn_blocking(find).await.map_err(|error| error.to_string())?;
        found.map_err(|error| error.to_string())
    }
}

fn form_of(form: &LayerForm) -> Form {
    match form {
        LayerForm::Tar => Form::Tar,
        LayerForm::TarGzip => Form::TarGzip,
        LayerForm::TarZstd => Form::TarZstd,
        LayerForm::File(name) => Form::File(name.clone()),
    }
}

/// What nobody can mount now may be pushed anew under the same name.
fn of_content(error: images::PullError) -> PullError {
    match PullError::from(error) {
        PullError::NotWasm(text) => PullError::Failed(text),
        other => other,
    }
}

fn reference(request: &PullRequest<'_>) -> Result<Reference, PullError> {
    let parsed = request.image.parse::<Reference>();
    parsed.map_err(|error| PullError::InvalidName(error.to_string()))
}

fn policy(request: &PullRequest<'_>) -> images::PullPolicy {
    match request.policy {
        PullPolicy::Always => images::PullPolicy::Always,
        PullPolicy::IfNotPresent => images::PullPolicy::IfNotPresent,
        PullPolicy::Never => images::PullPolicy::Never,
    }
}

impl From<images::PullError> for PullError {
    fn from(error: images::PullError) -> PullError {
        let text = error.to_string();
        match error {
            images::PullError::NotPresent(_) => PullError::NotPresent(text),
            images::PullError::Invalid { .. } => PullError::NotWasm(text),
            images::PullError::NotFound(_)
            | images::PullError::Unauthorized { .. }
            | images::PullError::Network { .. } => PullError::Failed(text),
        }
    }
}
