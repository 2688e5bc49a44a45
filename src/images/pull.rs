//! Brings images to a node: from the cluster's own registry through the API, from other registries
//! over HTTPS; whatever comes is checked by digest before anyone sees it.
//!
//! In two steps, because what a node needs most often is only the digest: [`Puller::resolve`] says
//! what a name means, [`Puller::load`] gives the program. Two loads of one program at the same time
//! fetch it once. How many programs are held in memory is bounded, for the cluster's own registry
//! and for others apart, so that a slow registry holds up nobody but its own users.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cache::{Cache, Known};
use super::foreign;
use super::layout::{LayoutError, Manifest};
use super::{MAX_BLOB_BYTES, Reference, digest_of};
use crate::api::ApiError;
use crate::base::keyed_locks::KeyedLocks;
use crate::client::SharedApi;

/// Programs of the disk and of the cluster's own registry in memory at the same time.
const OWN_LOADS: usize = 4;
/// Manifests asked of the cluster's own registry at the same time.
const OWN_QUESTIONS: usize = 16;
/// The same for each other registry.
const FOREIGN_LOADS: usize = 2;
const FOREIGN_QUESTIONS: usize = 4;
/// Programs of all other registries together.
const ALL_FOREIGN_LOADS: usize = 6;
/// Registries remembered before those that nobody uses are forgotten.
const REGISTRIES: usize = 64;

/// When the registry is asked (core/v1 Container.imagePullPolicy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// What an image's name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// `sha256:…` of the manifest; `imageID` is the name with it ([`Reference::image_id`]).
    pub digest: String,
    /// `sha256:…` of the program; what compiled code is kept by.
    pub wasm_digest: String,
    /// Length of the program in bytes; 0 where it was kept by an older release.
    pub size: u64,
    /// It is on this node's disk, and no registry was asked.
    pub present: bool,
}

/// A program in memory. It has a place among those that may be, so keep it only while it is used.
pub struct Program {
    pub wasm: Bytes,
    _taken: Vec<OwnedSemaphorePermit>,
    /// Whose places were taken: a registry is forgotten when nobody has its places.
    _registry: Option<Arc<Places>>,
}

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub digest: String,
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
    own: Places,
    registries: Mutex<HashMap<String, Weak<Places>>>,
    foreign_loads: Arc<Semaphore>,
    /// By digest of the program.
    loading: KeyedLocks,
}

/// How much of one registry may be under way.
struct Places {
    questions: Semaphore,
    loads: Arc<Semaphore>,
}

impl Places {
    fn new(questions: usize, loads: usize) -> Places {
        let loads = Arc::new(Semaphore::new(loads));
        Places { questions: Semaphore::new(questions), loads }
    }
}

impl Puller {
    pub fn new(api: SharedApi, cache: Arc<Cache>) -> Puller {
        Puller {
            api,
            cache,
            own: Places::new(OWN_QUESTIONS, OWN_LOADS),
            registries: Mutex::default(),
            foreign_loads: Arc::new(Semaphore::new(ALL_FOREIGN_LOADS)),
            loading: KeyedLocks::default(),
        }
    }

    /// [`Puller::resolve`] and [`Puller::load`] without credentials.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(&self, image: &Reference, policy: PullPolicy) -> Result<Pulled, PullError> {
        let Resolved { digest, wasm_digest, size, .. } = self.resolve(image, policy, &[]).await?;
        let program = self.load(image, policy, &[], &wasm_digest, size).await?;
        Ok(Pulled { digest, wasm_digest, wasm: program.wasm })
    }

    /// What a name means, by the node's own memory or its registry. `docker_configs` are contents
    /// of `.dockerconfigjson` secrets, for foreign registries.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn resolve(
        &self,
        image: &Reference,
        policy: PullPolicy,
        docker_configs: &[Bytes],
    ) -> Result<Resolved, PullError> {
        if policy != PullPolicy::Always
            && let Some(known) = self.cache.known(&image.to_string()).await
            && self.cache.touch(&known.wasm_digest).await
        {
            let Known { digest, wasm_digest, size, .. } = known;
            return Ok(Resolved { digest, wasm_digest, size, present: true });
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(image.to_string()));
        }
        let text = {
            let foreign = image.registry.as_ref().map(|registry| self.registry(registry));
            let places = foreign.as_deref().unwrap_or(&self.own);
            let _place = places.questions.acquire().await.map_err(|e| network(image, e))?;
            Source::new(self, image, docker_configs).manifest().await?
        };
        let digest = digest_of(&text);
        if image.digest.as_ref().is_some_and(|wanted| *wanted != digest) {
            return Err(invalid(image, format!("its registry sent a manifest {digest}")));
        }
        let manifest = Manifest::parse(&text).map_err(|e| invalid(image, e))?;
        let layer =
            manifest.wasm().ok_or_else(|| invalid(image, LayoutError::Layers("none".into())))?;
        let (wasm_digest, size) = (layer.digest.clone(), layer.size);
        let known = Known { name: image.to_string(), digest, wasm_digest, size };
        if let Err(error) = self.cache.remember(&known).await {
            tracing::warn!(%error, "an image's name is not remembered");
        }
        let Known { digest, wasm_digest, .. } = known;
        Ok(Resolved { digest, wasm_digest, size, present: false })
    }

    /// The program of a resolved image: from the disk, or fetched once for everyone who waits.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn load(
        &self,
        image: &Reference,
        policy: PullPolicy,
        docker_configs: &[Bytes],
        wasm_digest: &str,
        size: u64,
    ) -> Result<Program, PullError> {
        let _alone = self.loading.lock(wasm_digest).await;
        {
            let place = take(image, &self.own.loads).await?;
            if let Some(wasm) = self.cache.get(wasm_digest).await {
                return Ok(Program { wasm, _taken: vec![place], _registry: None });
            }
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(image.to_string()));
        }
        let registry = image.registry.as_ref().map(|registry| self.registry(registry));
        let taken = match &registry {
            None => vec![take(image, &self.own.loads).await?],
            // The registry's own place first: a slow one must not fill those of all.
            Some(places) => {
                vec![take(image, &places.loads).await?, take(image, &self.foreign_loads).await?]
            }
        };
        let source = Source::new(self, image, docker_configs);
        let wasm = self.fetch(&source, wasm_digest, size).await?;
        Ok(Program { wasm, _taken: taken, _registry: registry })
    }

    /// The places of a registry; they last while somebody uses them.
    fn registry(&self, name: &str) -> Arc<Places> {
        let mut registries = self.registries.lock();
        if let Some(places) = registries.get(name).and_then(Weak::upgrade) {
            return places;
        }
        if registries.len() >= REGISTRIES {
            registries.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(Places::new(FOREIGN_QUESTIONS, FOREIGN_LOADS));
        registries.insert(name.to_string(), Arc::downgrade(&places));
        places
    }

    async fn fetch(
        &self,
        source: &Source<'_>,
        digest: &str,
        size: u64,
    ) -> Result<Bytes, PullError> {
        let known = size > 0;
        let most = if known { size.min(MAX_BLOB_BYTES) } else { MAX_BLOB_BYTES };
        let wasm = source.blob(digest, most).await?;
        let (length, actual) = (wasm.len() as u64, digest_of(&wasm));
        if known && length != size || actual != digest {
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

async fn take(image: &Reference, of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PullError> {
    of.clone().acquire_owned().await.map_err(|error| network(image, error))
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
