//! What the node needs of images: a name becomes a digest and Wasm bytes. [`Puller`] of the room
//! `images` is one; tests have their own.

use bytes::Bytes;

use crate::images::{self, Puller, Reference};

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

/// An artifact that is here.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// `name@sha256:…`, for the status.
    pub image_id: String,
    /// `sha256:…` of the Wasm bytes; what compiled code is kept by.
    pub wasm_digest: String,
    pub wasm: Bytes,
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

/// Gets images. Concurrent pulls of one image should be one pull.
#[async_trait::async_trait]
pub trait Images: Send + Sync + 'static {
    async fn pull(&self, request: &PullRequest<'_>) -> Result<PulledImage, PullError>;
}

#[async_trait::async_trait]
impl Images for Puller {
    async fn pull(&self, request: &PullRequest<'_>) -> Result<PulledImage, PullError> {
        let parsed = request.image.parse::<Reference>();
        let name = parsed.map_err(|error| PullError::InvalidName(error.to_string()))?;
        let policy = match request.policy {
            PullPolicy::Always => images::PullPolicy::Always,
            PullPolicy::IfNotPresent => images::PullPolicy::IfNotPresent,
            PullPolicy::Never => images::PullPolicy::Never,
        };
        let pulled = self.pull_with(&name, policy, request.docker_configs).await?;
        Ok(PulledImage {
            image_id: name.image_id(&pulled.digest),
            wasm_digest: pulled.wasm_digest,
            wasm: pulled.wasm,
        })
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
