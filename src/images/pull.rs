//! Brings images to a node: from the cluster's own registry through the API, from other registries
//! over HTTPS; whatever comes is checked by digest before anyone sees it.
//!
//! In two steps, because what a node needs most often is only the digest: [`Puller::resolve`] says
//! what a name means, [`Puller::load`] gives the program. Two loads of one program at the same time
//! fetch it once. How many programs are held in memory is bounded, for the cluster's own registry
//! and for others apart, so that a slow registry holds up nobody but its own users. A registry may
//! have mirrors, which are asked before it; what no place has is told with the words of each. What
//! came with credentials is given only to who has them too, or whom its registry answers (KEP-2535).
//!
//! An image is on the node if its program is, or the program's code: then nobody is asked.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::cache::{Cache, Known};
use super::content::LayerForm;
use super::registries::{Candidate, Registries};
use super::source::{Described, Meaning, Source};
use super::{MAX_BLOB_BYTES, Reference, credentials, digest_hex, digest_of, foreign};
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
/// Credentials remembered of one image; who comes later asks the registry.
const SECRETS: usize = 16;
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
    /// It, or its code, is on this node's disk, and no registry was asked.
    pub present: bool,
}

/// What a [`Puller`] asks of the node that it pulls for.
#[async_trait::async_trait]
pub trait Host: Send + Sync + 'static {
    /// Whether code of a program is here that can run now, without the program's bytes.
    async fn has_code(&self, wasm_digest: &str) -> bool;

    /// The program among the files of a layer: the one of the path `entry`, else the only one there;
    /// of at most [`MAX_BLOB_BYTES`].
    ///
    /// # Errors
    /// Says what is there instead, for the user.
    async fn program(
        &self,
        form: &LayerForm,
        layer: Bytes,
        entry: Option<String>,
    ) -> Result<Bytes, String>;
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
    /// It is no program: what its registry has, and not what it said this once.
    #[error("image {name}: {why}")]
    Invalid { name: String, why: String },
    /// Another try may help.
    #[error("image {name} could not be pulled: {why}")]
    Network { name: String, why: String },
}

/// Pulls images; share it by `Arc`.
pub struct Puller {
    api: SharedApi,
    pub(super) cache: Arc<Cache>,
    settings: Registries,
    host: Arc<dyn Host>,
    own: Places,
    registries: Mutex<HashMap<String, Weak<Places>>>,
    foreign_loads: Arc<Semaphore>,
    /// By digest of the program.
    loading: KeyedLocks,
}

/// How much of one registry may be under way.
pub(super) struct Places {
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
    pub fn new(
        api: SharedApi,
        cache: Arc<Cache>,
        settings: Registries,
        host: Arc<dyn Host>,
    ) -> Puller {
        Puller {
            api,
            cache,
            settings,
            host,
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
        let known = self.cache.known(&image.to_string()).await;
        if policy != PullPolicy::Always
            && let Some(known) = &known
            && self.may_use(known, image, docker_configs)
            && self.is_here(&known.wasm_digest).await
        {
            let Known { digest, wasm_digest, size, .. } = known.clone();
            return Ok(Resolved { digest, wasm_digest, size, present: true });
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(image.to_string()));
        }
        let Described { digest, meaning, secret } = {
            let foreign = image.registry.as_ref().map(|registry| self.registry(registry));
            let _place = self.question(image, foreign.as_deref()).await?;
            self.describe(image, docker_configs).await?
        };
        let packed = matches!(meaning, Meaning::Packed);
        let same = known.as_ref().filter(|known| known.digest == digest && known.packed);
        let (wasm_digest, size) = match (meaning, same) {
            (Meaning::Program { wasm_digest, size }, _) => (wasm_digest, size),
            (Meaning::Packed, Some(known)) => (known.wasm_digest.clone(), known.size),
            (Meaning::Packed, None) => {
                let program = self.unpack(image, &digest, docker_configs).await?;
                (digest_of(&program.wasm), program.wasm.len() as u64)
            }
        };
        let secrets = secrets_of(known, &digest, secret);
        let known = Known { name: image.to_string(), digest, wasm_digest, size, packed, secrets };
        if let Err(error) = self.cache.remember(&known).await {
            tracing::warn!(%error, "an image's name is not remembered");
        }
        let Known { digest, wasm_digest, .. } = known;
        Ok(Resolved { digest, wasm_digest, size, present: false })
    }

    /// Whether a program can start without a registry. What is used stays longest on the disk.
    async fn is_here(&self, wasm_digest: &str) -> bool {
        digest_hex(wasm_digest).is_some()
            && (self.cache.touch(wasm_digest).await || self.host.has_code(wasm_digest).await)
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
        let known = self.cache.known(&image.to_string()).await;
        if let Some(known) = known.filter(|known| known.packed && known.wasm_digest == wasm_digest)
        {
            let program = self.unpack(image, &known.digest, docker_configs).await?;
            return match digest_of(&program.wasm) == wasm_digest {
                true => Ok(program),
                false => Err(network(image, "its layer has another program than before")),
            };
        }
        let (taken, registry) = self.take_places(image).await?;
        let wasm = self.fetch_anywhere(image, docker_configs, wasm_digest, size).await?;
        Ok(Program { wasm, _taken: taken, _registry: registry })
    }

    /// The program in the layer of an image of files, of which `digest` is the manifest's; it is kept.
    async fn unpack(
        &self,
        image: &Reference,
        digest: &str,
        docker_configs: &[Bytes],
    ) -> Result<Program, PullError> {
        let _alone = self.loading.lock(digest).await;
        let (taken, registry) = self.take_places(image).await?;
        let pinned = Reference { digest: Some(digest.to_string()), ..image.clone() };
        let mut failures = Vec::new();
        for source in self.sources(&pinned, docker_configs) {
            match source.unpacked(&*self.host).await {
                Ok(wasm) => {
                    self.keep(&digest_of(&wasm), &wasm).await;
                    return Ok(Program { wasm, _taken: taken, _registry: registry });
                }
                Err(error) => failures.push(error),
            }
        }
        Err(all_failed(image, failures))
    }

    /// Places for one program of an image's registry.
    async fn take_places(
        &self,
        image: &Reference,
    ) -> Result<(Vec<OwnedSemaphorePermit>, Option<Arc<Places>>), PullError> {
        let registry = image.registry.as_ref().map(|registry| self.registry(registry));
        let taken = match &registry {
            None => vec![take(image, &self.own.loads).await?],
            // The registry's own place first: a slow one must not fill those of all.
            Some(places) => {
                vec![take(image, &places.loads).await?, take(image, &self.foreign_loads).await?]
            }
        };
        Ok((taken, registry))
    }

    /// A place for a question to a registry, or the cluster's own.
    pub(super) async fn question<'a>(
        &'a self,
        image: &Reference,
        foreign: Option<&'a Places>,
    ) -> Result<SemaphorePermit<'a>, PullError> {
        let places = foreign.unwrap_or(&self.own);
        places.questions.acquire().await.map_err(|error| network(image, error))
    }

    /// The places of a registry; they last while somebody uses them.
    pub(super) fn registry(&self, name: &str) -> Arc<Places> {
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

    /// [`Source::describe`] of the first place that answers.
    async fn describe(
        &self,
        image: &Reference,
        docker_configs: &[Bytes],
    ) -> Result<Described, PullError> {
        let mut failures = Vec::new();
        for source in self.sources(image, docker_configs) {
            match source.describe().await {
                Ok(answer) => return Ok(answer),
                Err(error) => failures.push(error),
            }
        }
        Err(all_failed(image, failures))
    }

    /// The program from the first place that has it.
    async fn fetch_anywhere(
        &self,
        image: &Reference,
        docker_configs: &[Bytes],
        digest: &str,
        size: u64,
    ) -> Result<Bytes, PullError> {
        let mut failures = Vec::new();
        for source in self.sources(image, docker_configs) {
            match self.fetch(&source, digest, size).await {
                Ok(wasm) => return Ok(wasm),
                Err(error) => failures.push(error),
            }
        }
        Err(all_failed(image, failures))
    }

    /// Whether a pod with these credentials may use what is on the disk.
    pub(super) fn may_use(
        &self,
        known: &Known,
        image: &Reference,
        docker_configs: &[Bytes],
    ) -> bool {
        let shown = |candidate: &Candidate| {
            let registry = candidate.image.registry.as_deref().unwrap_or_default();
            let settings = self.settings.settings(registry);
            let auth = foreign::auth(&candidate.image, &settings, docker_configs);
            credentials::fingerprint(&candidate.image, &auth)
        };
        known.secrets.is_empty()
            || self
                .settings
                .candidates(image)
                .iter()
                .filter_map(shown)
                .any(|secret| known.secrets.contains(&secret))
    }

    pub(super) fn sources<'a>(
        &'a self,
        image: &Reference,
        docker_configs: &'a [Bytes],
    ) -> impl Iterator<Item = Source> + use<'a> {
        let candidates = self.settings.candidates(image).into_iter();
        candidates
            .map(|candidate| Source::new(&self.api, &self.settings, candidate, docker_configs))
    }

    async fn fetch(&self, source: &Source, digest: &str, size: u64) -> Result<Bytes, PullError> {
        let known = size > 0;
        let most = if known { size.min(MAX_BLOB_BYTES) } else { MAX_BLOB_BYTES };
        let wasm = source.blob(digest, most).await?;
        let (length, actual) = (wasm.len() as u64, digest_of(&wasm));
        if known && length != size || actual != digest {
            let why =
                format!("its registry sent {length} bytes {actual} for {size} bytes {digest}");
            return Err(network(&source.image, why));
        }
        self.keep(digest, &wasm).await;
        Ok(wasm)
    }

    async fn keep(&self, digest: &str, wasm: &Bytes) {
        if let Err(error) = self.cache.put(digest, wasm.clone()).await {
            tracing::warn!(%error, digest, "a pulled image is not kept");
        }
    }
}

async fn take(image: &Reference, of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PullError> {
    of.clone().acquire_owned().await.map_err(|error| network(image, error))
}

/// One error of the errors of all places that were asked.
pub(super) fn all_failed(image: &Reference, mut failures: Vec<PullError>) -> PullError {
    if failures.len() < 2 {
        return failures.pop().unwrap_or_else(|| network(image, "there is nobody to ask"));
    }
    if failures.iter().all(|error| matches!(error, PullError::NotFound(_))) {
        return PullError::NotFound(image.to_string());
    }
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let why = texts.join("; ");
    // The last is the registry itself: where it has no program, no other try helps.
    match failures.pop() {
        Some(PullError::Invalid { .. }) => invalid(image, why),
        Some(PullError::Unauthorized { name, .. }) => PullError::Unauthorized { name, why },
        _ => network(image, why),
    }
}

/// The fingerprints to remember: of who pulled the same before, and of who did now. Nobody's
/// credentials mean that everyone may.
pub(super) fn secrets_of(
    known: Option<Known>,
    digest: &str,
    secret: Option<String>,
) -> Vec<String> {
    let Some(secret) = secret else { return Vec::new() };
    let mut secrets = match known {
        // What everyone could pull before may be refused now: only who is let in counts.
        Some(known) if known.digest == digest => known.secrets,
        _ => Vec::new(),
    };
    secrets.retain(|other| *other != secret);
    secrets.push(secret);
    let old = secrets.len().saturating_sub(SECRETS);
    secrets.drain(..old);
    secrets
}

pub(super) fn invalid(image: &Reference, why: impl std::fmt::Display) -> PullError {
    PullError::Invalid { name: image.to_string(), why: why.to_string() }
}

pub(super) fn network(image: &Reference, why: impl std::fmt::Display) -> PullError {
    PullError::Network { name: image.to_string(), why: why.to_string() }
}
