//! Brings images to a node: from the cluster's own registry through the API, from other registries
//! over HTTPS; whatever comes is checked by digest before anyone sees it.
//!
//! Two pulls of one program at the same time fetch it once, and the number of pulls at the same
//! time is bounded, so that a node that starts fifty pods does not hold fifty programs in memory.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::cache::{Cache, Known};
use super::foreign;
use super::layout::{LayoutError, Manifest};
use super::{MAX_BLOB_BYTES, Reference, digest_of};
use crate::api::ApiError;
use crate::client::SharedApi;

/// Pulls at the same time; others wait.
const MAX_PULLS: usize = 4;

/// When the registry is asked (core/v1 Container.imagePullPolicy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// `sha256:…` of the manifest; `imageID` is the name with it ([`Reference::image_id`]).
    pub digest: String,
    /// `sha256:…` of the program; what compiled code is kept by.
    pub wasm_digest: String,
    pub wasm: Bytes,
}

/// Why an image is not here; the messages are for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error("image {0} was not found in its registry")]
    NotFound(String),
    /// The policy is Never, and it is not here.
    #[error("image {0} is not on this node, and its pull policy is Never")]
    NotPresent(String),
    #[error("image {name}: its registry refused: {why}")]
    Unauthorized { name: String, why: String },
    /// It is no Wasm artifact, or not what its digest says.
    #[error("image {name}: {why}")]
    Invalid { name: String, why: String },
    /// Another try may help.
    #[error("image {name} could not be pulled: {why}")]
    Network { name: String, why: String },
}

/// Pulls images; share it by `Arc`.
pub struct Puller {
    api: SharedApi,
    cache: Arc<Cache>,
    permits: Semaphore,
    /// A lock for each program that is being fetched.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Puller {
    pub fn new(api: SharedApi, cache: Arc<Cache>) -> Puller {
        let permits = Semaphore::new(MAX_PULLS);
        Puller { api, cache, permits, fetching: Mutex::default() }
    }

    /// [`Puller::pull_with`] without credentials.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(&self, image: &Reference, policy: PullPolicy) -> Result<Pulled, PullError> {
        self.pull_with(image, policy, &[]).await
    }

    /// The program of an image. `docker_configs` are contents of `.dockerconfigjson` secrets, for
    /// foreign registries.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull_with(
        &self,
        image: &Reference,
        policy: PullPolicy,
        docker_configs: &[Bytes],
    ) -> Result<Pulled, PullError> {
        if policy != PullPolicy::Always
            && let Some(pulled) = self.cached(image).await
        {
            return Ok(pulled);
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(image.to_string()));
        }
        let _permit = self.permits.acquire().await.map_err(|e| network(image, e))?;
        let source = Source::new(self, image, docker_configs);
        let text = source.manifest().await?;
        let digest = digest_of(&text);
        if image.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
            return Err(invalid(image, format!("its registry sent a manifest {digest}")));
        }
        let manifest = Manifest::parse(&text).map_err(|e| invalid(image, e))?;
        let layer =
            manifest.wasm().ok_or_else(|| invalid(image, LayoutError::Layers("none".into())))?;
        let wasm = self.program(&source, &layer.digest, layer.size).await?;
        let known = Known { name: image.to_string(), digest, wasm_digest: layer.digest.clone() };
        if let Err(error) = self.cache.remember(&known).await {
            tracing::warn!(%error, "a pulled image's name is not remembered");
        }
        Ok(Pulled { digest: known.digest, wasm_digest: known.wasm_digest, wasm })
    }

    /// What is here under this name.
    async fn cached(&self, image: &Reference) -> Option<Pulled> {
        let known = self.cache.known(&image.to_string()).await?;
        let wasm = self.cache.get(&known.wasm_digest).await?;
        Some(Pulled { digest: known.digest, wasm_digest: known.wasm_digest, wasm })
    }

    /// A program by digest: from the cache, or fetched once for everyone who waits.
    async fn program(
        &self,
        source: &Source<'_>,
        digest: &str,
        size: u64,
    ) -> Result<Bytes, PullError> {
        let lock = self.fetching.lock().entry(digest.to_string()).or_default().clone();
        let held = lock.lock().await;
        let wasm = match self.cache.get(digest).await {
            Some(wasm) => Ok(wasm),
            None => self.fetch(source, digest, size).await,
        };
        drop(held);
        let mut fetching = self.fetching.lock();
        // The map and this function hold it: nobody else waits.
        if Arc::strong_count(&lock) <= 2 {
            fetching.remove(digest);
        }
        wasm
    }

    async fn fetch(
        &self,
        source: &Source<'_>,
        digest: &str,
        size: u64,
    ) -> Result<Bytes, PullError> {
        let wasm = source.blob(digest, size.min(MAX_BLOB_BYTES)).await?;
        let (length, actual) = (wasm.len() as u64, digest_of(&wasm));
        if length != size || actual != digest {
            let why =
                format!("its registry sent {length} bytes {actual} for {size} bytes {digest}");
            return Err(invalid(source.image, why));
        }
        if let Err(error) = self.cache.put(digest, wasm.clone()).await {
            tracing::warn!(%error, digest, "a pulled image is not kept");
        }
        Ok(wasm)
    }
}

/// Where one image comes from.
struct Source<'a> {
    image: &'a Reference,
    api: &'a SharedApi,
    /// `None`: the cluster's own registry.
    foreign: Option<foreign::Registry>,
}

impl<'a> Source<'a> {
    fn new(puller: &'a Puller, image: &'a Reference, docker_configs: &[Bytes]) -> Source<'a> {
        let foreign = image
            .registry
            .as_ref()
            .map(|registry| foreign::Registry::new(registry, docker_configs));
        Source { image, api: &puller.api, foreign }
    }

    async fn manifest(&self) -> Result<Bytes, PullError> {
        if let Some(foreign) = &self.foreign {
            return foreign.manifest(self.image).await;
        }
        self.own(&format!("manifests/{}", self.image.version())).await
    }

    async fn blob(&self, digest: &str, max_bytes: u64) -> Result<Bytes, PullError> {
        if let Some(foreign) = &self.foreign {
            return foreign.blob(self.image, digest, max_bytes).await;
        }
        self.own(&format!("blobs/{digest}")).await
    }

    async fn own(&self, rest: &str) -> Result<Bytes, PullError> {
        let path = format!("/v2/{}/{rest}", self.image.repository);
        self.api.get_bytes(&path).await.map_err(|error| of_api(self.image, error))
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

pub(super) fn invalid(image: &Reference, why: impl std::fmt::Display) -> PullError {
    PullError::Invalid { name: image.to_string(), why: why.to_string() }
}

pub(super) fn network(image: &Reference, why: impl std::fmt::Display) -> PullError {
    PullError::Network { name: image.to_string(), why: why.to_string() }
}
