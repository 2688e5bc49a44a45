//! The API server itself: what every request shares, and the small steps that all of them take.
//!
//! Owns the parts (store, registry, clock) and the translation of the store's errors. The pipeline's
//! stages are in files of their own: [`super::read`], [`super::watch`], [`super::write`],
//! [`super::delete`] and [`super::subresource`]. Knows nothing of HTTP.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::admission::cluster_ip::Cidr;
use super::admission::validating_policy_table::Policies;
use super::artifacts::Artifacts;
use super::binders::Binders;
use super::code::CodeEndpoint;
use super::conversion::Conversions;
use super::definitions::Definitions;
use super::filter::FieldMemo;
use super::housekeep::{EVENT_TTL, HISTORY_KEPT, History};
use super::lanes::Lanes;
use super::measured::Measured;
use super::metrics::RequestMetrics;
use super::node_graph::NodeGraph;
use super::nodes::Tunnels;
use super::openapi::OpenApi;
use super::pki::Pki;
use super::rbac::Rules;
use super::subresource::why::Explanations;
use super::tokens::Signer;
use super::webhooks::Hooks;
use super::{User, authz, keys, local, routing, versions, vital};
use crate::api::error::{Cause, Reason};
use crate::api::registry::{Registry, SharedRegistry};
use crate::api::resource::{Kind, KindInfo};
use crate::api::{ApiError, Object, Raw};
use crate::base::clock::SharedClock;
use crate::base::ids::Ids;
use crate::base::keyed_locks::KeyedLocks;
use crate::base::metrics::Metrics;
use crate::client::SharedApi;
use crate::client::controller_status::ControllersPage;
use crate::client::election::Fence;
use crate::engine::service::CompileService;
use crate::store::{CommitError, Committed, Entry, Key, Op, ReadError, SharedStore};

/// Requests that only read, at the same time, over HTTP (upstream's default).
pub const MAX_READS_IN_FLIGHT: usize = 400;
/// Requests that write, at the same time, over HTTP (upstream's default).
pub const MAX_WRITES_IN_FLIGHT: usize = 200;
/// Requests that write, of administrators and nodes: enough for a large cluster's heartbeats at
/// once.
pub const RESERVED_WRITES_IN_FLIGHT: usize = 400;
/// Watches and followed logs at the same time, in each lane.
pub const MAX_STREAMS: usize = 20_000;

/// Upstream's node-monitor-grace-period until 1.31.
const NODE_GRACE: Duration = Duration::from_secs(40);

/// What an [`ApiServer`] is made of.
pub struct Parts {
    pub store: SharedStore,
    /// The built-in kinds; definitions of custom resources add theirs.
    pub registry: Arc<Registry>,
    pub clock: SharedClock,
    pub ids: Arc<Ids>,
    /// The cluster's own registry; without it `/v2` is unknown and images are not checked.
    pub artifacts: Option<Arc<Artifacts>>,
    pub nodes: Arc<Tunnels>,
    /// Signs the certificates of machines that join, and the tokens of service accounts; without it
    /// nobody joins, and tokens end with the server.
    pub pki: Option<Arc<Pki>>,
    pub options: Options,
}

/// Settings of the API server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where Services get their cluster IPs from.
    pub service_cidr: Cidr,
    /// The parts of the control plane that run in this process, whose end ends it: what
    /// ComponentStatuses tell of beside the store.
    pub components: Vec<String>,
    /// The addresses of pods and of Services, as machines that join are told.
    pub cluster_ranges: Vec<String>,
    /// After how long without a heartbeat a node counts as lost, as agents are told with their tunnel.
    pub node_grace: Duration,
    /// Requests in flight of everybody but administrators and nodes (see [`super::lanes`]).
    pub max_reads_in_flight: usize,
    pub max_writes_in_flight: usize,
    /// How long watches and pages can go on from an older state.
    pub history_kept: Duration,
    /// How long Events are kept after their last write.
    pub event_ttl: Duration,
    /// The same of administrators and nodes.
    pub reserved_reads_in_flight: usize,
    pub reserved_writes_in_flight: usize,
    /// Watches and followed logs, in each of the two lanes.
    pub max_streams: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            service_cidr: Cidr::DEFAULT_SERVICES,
            components: Vec::new(),
            cluster_ranges: Vec::new(),
            node_grace: NODE_GRACE,
            max_reads_in_flight: MAX_READS_IN_FLIGHT,
            max_writes_in_flight: MAX_WRITES_IN_FLIGHT,
            history_kept: HISTORY_KEPT,
            event_ttl: EVENT_TTL,
            reserved_reads_in_flight: MAX_READS_IN_FLIGHT,
            reserved_writes_in_flight: RESERVED_WRITES_IN_FLIGHT,
            max_streams: MAX_STREAMS,
        }
    }
}

/// See the module's documentation.
pub struct ApiServer {
    pub(super) store: SharedStore,
    pub(super) registry: SharedRegistry,
    pub(super) definitions: Definitions,
    pub(super) clock: SharedClock,
    pub(super) started: Timestamp,
    pub(super) ids: Arc<Ids>,
    pub(super) artifacts: Option<Arc<Artifacts>>,
    /// Compiles for nodes; until it is set, nodes are told that nobody does.
    pub(super) code: OnceLock<CodeEndpoint>,
    /// Says why pods are where they are; set where a scheduler runs in this process.
    pub(super) explanations: OnceLock<Explanations>,
    pub(super) nodes: Arc<Tunnels>,
    pub(super) pki: Option<Arc<Pki>>,
    pub(super) tokens: Arc<Signer>,
    pub(super) openapi: Arc<OpenApi>,
    pub(super) options: Options,
    pub(super) lanes: Arc<Lanes>,
    metrics: Arc<Metrics>,
    pub(super) request_metrics: RequestMetrics,
    /// The page about controllers, where there are some.
    pub(super) controllers_page: OnceLock<ControllersPageOf>,
    draining: AtomicBool,
    pub(super) history: Mutex<History>,
    pub(super) memo: FieldMemo,
    pub(super) measured: Measured,
    pub(super) node_graph: NodeGraph,
    pub(super) binders: Binders,
    /// Writers that would fail each other over one object take turns.
    pub(super) turns: KeyedLocks,
    pub(super) rules: Arc<Rules>,
    pub(super) hooks: Arc<Hooks>,
    pub(super) conversions: Conversions,
    pub(super) policies: Arc<Policies>,
    /// Where the next search for a free cluster IP begins.
    pub(super) next_service_ip: AtomicU64,
}

/// Makes the page about controllers; must be quick.
pub type ControllersPageOf = Box<dyn Fn() -> ControllersPage + Send + Sync>;

/// Who asks for what: one request about a resource.
#[derive(Clone)]
pub struct Call {
    pub user: Arc<User>,
    pub info: Arc<KindInfo>,
    /// Empty for cluster-scoped kinds and for collections over all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// What is committed for the call is so only while this term lasts.
    pub fence: Option<Arc<Fence>>,
}

/// What a write answers.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    /// One object in JSON.
    pub raw: Bytes,
    /// For `Warning:` headers.
    pub warnings: Vec<String>,
    /// Whether `raw` is of the call's kind (and not a Status or a Scale, say).
    pub is_resource: bool,
}

/// An object as stored, and read.
pub struct Stored {
    pub entry: Entry,
    /// In the version that was asked for.
    pub object: Object,
}

impl ApiServer {
    pub fn new(parts: Parts) -> Arc<ApiServer> {
        parts.store.set_tags_of(routing::tags_of());
        parts.store.set_vital(vital::vital());
        let tokens = match &parts.pki {
            Some(pki) => pki.tokens().clone(),
            None => Arc::new(Signer::ephemeral().expect("the system has random bytes")),
        };
        let (lanes, metrics) = (Arc::new(Lanes::new(&parts.options)), Arc::<Metrics>::default());
        let request_metrics = RequestMetrics::new(&metrics);
        lanes.show(&metrics);
        let binders = Binders::default();
        binders.begin(parts.store.revision());
        Arc::new(ApiServer {
            lanes,
            metrics,
            request_metrics,
            controllers_page: OnceLock::new(),
            draining: AtomicBool::new(false),
            store: parts.store,
            registry: SharedRegistry::new(parts.registry),
            definitions: Definitions::default(),
            started: parts.clock.now(),
            clock: parts.clock,
            ids: parts.ids,
            artifacts: parts.artifacts,
            code: OnceLock::new(),
            explanations: OnceLock::new(),
            nodes: parts.nodes,
            pki: parts.pki,
            tokens,
            openapi: Arc::default(),
            options: parts.options,
            history: Mutex::new(History::default()),
            memo: FieldMemo::default(),
            measured: Measured::default(),
            node_graph: NodeGraph::default(),
            binders,
            turns: KeyedLocks::default(),
            rules: Arc::default(),
            hooks: Arc::default(),
            conversions: Conversions::default(),
            policies: Arc::default(),
            next_service_ip: AtomicU64::new(0),
        })
    }

    /// Nodes are given code that `service` compiles, and pushed programs are compiled ahead. Its
    /// workers are the caller's affair.
    pub fn compile_with(&self, service: Arc<CompileService>) {
        if let Some(artifacts) = &self.artifacts {
            let ahead = service.clone();
            artifacts.on_push(Box::new(move |digest, path| ahead.prefetch(digest, path)));
        }
        // Set once, before the first request.
        let _ = self.code.set(CodeEndpoint::new(service));
    }

    /// `/debug/controllers` shows this from now on.
    pub fn show_controllers(&self, page: ControllersPageOf) {
        // Who tells a second time has nothing new to tell.
        let _ = self.controllers_page.set(page);
    }

    /// What `/metrics` shows; other parts of the process add theirs.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The API as a user in the same process sees it: the whole pipeline without HTTP.
    pub fn api(self: &Arc<Self>, user: User) -> SharedApi {
        Arc::new(local::Local::new(self.clone(), user))
    }

    /// The server is about to stop: it is not ready any more, while it still answers.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The kinds that are served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.current()
    }

    /// Tells of each change of the kinds that are served.
    pub fn registry_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.definitions.changes()
    }

    pub(super) fn authorize(&self, call: &Call, verb: &str) -> Result<(), ApiError> {
        let attributes = authz::Attributes {
            verb,
            resource: Some(&call.info.gvr),
            subresource: &call.subresource,
            namespace: &call.namespace,
            name: &call.name,
            path: "",
        };
        self.authorize_user(&call.user, &attributes)
    }

    /// [`authz::authorize`], and what a URL does not tell: whose Pods need the object.
    pub(super) fn authorize_user(
        &self,
        user: &User,
        attributes: &authz::Attributes<'_>,
    ) -> Result<(), ApiError> {
        let (namespace, name) = (attributes.namespace, attributes.name);
        let stranger = match authz::needs_reference(user, attributes) {
            Some((node, kind)) if !self.node_graph.refers(node, namespace, kind, name) => {
                Some(node)
            }
            Some(_) => None,
            None => self.stranger_to_volume(user, attributes),
        };
        match stranger {
            Some(node) => {
                // The table of nodes does not give it, but a role may.
                let allowed = self.rules.allows(user, attributes);
                allowed.then_some(()).ok_or_else(|| authz::unrelated(user, attributes, node))
            }
            None => authz::authorize(&self.rules, user, attributes),
        }
    }

    /// The node whose agent asks for a volume that is none of its business.
    fn stranger_to_volume<'a>(
        &self,
        user: &'a User,
        attributes: &authz::Attributes<'_>,
    ) -> Option<&'a str> {
        let (node, only_own) = authz::needs_volume(user, attributes)?;
        let key = Key::new(&["", "persistentvolumes", "", attributes.name]);
        let volume = self.store.get(&key).ok().flatten();
        let concerns =
            volume.is_some_and(|volume| self.node_graph.concerns(node, &volume.value, only_own));
        (!concerns).then_some(node)
    }

    /// The stored object that a call names.
    pub(super) fn entry(&self, call: &Call) -> Result<Entry, ApiError> {
        let key = keys::object(&call.info, &call.namespace, &call.name);
        let entry = self.store.get(&key).map_err(read_error)?;
        entry.ok_or_else(|| ApiError::not_found(&call.info.gvr, &call.name))
    }

    /// Every stored object of a kind in a namespace.
    pub(super) fn in_namespace<T: Kind>(&self, namespace: &str) -> Result<Vec<T>, ApiError> {
        let entries = self.entries_in::<T>(namespace)?;
        entries.into_iter().map(|entry| Raw(entry.value).decode()).collect()
    }

    pub(super) fn entries_in<T: Kind>(&self, namespace: &str) -> Result<Vec<Entry>, ApiError> {
        let prefix = Key::new(&[T::GROUP, T::URL_PATH_SEGMENT, namespace]);
        Ok(self.store.list(&prefix, None, 0, None).map_err(read_error)?.entries)
    }

    /// What is stored of a resource in a namespace, as bytes; nothing if it cannot be read.
    pub fn stored_in(&self, group: &str, resource: &str, namespace: &str) -> Vec<Raw> {
        let prefix = Key::new(&[group, resource, namespace]);
        match self.store.list(&prefix, None, 0, None) {
            Ok(page) => page.entries.into_iter().map(|entry| Raw(entry.value)).collect(),
            Err(error) => {
                tracing::warn!(%error, resource, namespace, "stored objects cannot be counted");
                Vec::new()
            }
        }
    }

    pub(super) fn stored(&self, call: &Call) -> Result<Stored, ApiError> {
        let entry = self.entry(call)?;
        let object = versions::shown(&call.info, Raw(entry.value.clone()).object()?);
        Ok(Stored { entry, object })
    }

    /// Commits; `Ok(Err(_))` is a conflict, which the caller knows what to do about.
    pub(super) async fn commit(
        &self,
        ops: Vec<Op>,
    ) -> Result<Result<Committed, Conflict>, ApiError> {
        let pending = self.node_graph.before(&ops);
        let mut told = Rules::touched(&ops);
        told.extend(Hooks::touched(&ops).cloned());
        let result = match told {
            keys if keys.is_empty() => self.store.commit(ops).await,
            keys => Box::pin(self.commit_told(ops, keys)).await,
        };
        self.node_graph.after(pending, result.is_ok());
        match result {
            Ok(committed) => Ok(Ok(committed)),
            Err(CommitError::Conflict { op, current }) => Ok(Err(Conflict { op, current })),
            Err(error) => Err(commit_error(error)),
        }
    }
}

impl ApiServer {
    /// A commit that changes rules, webhooks or policies: they hold before it is answered. A task of its own,
    /// since the tables must be told even if nobody waits for the answer any more.
    async fn commit_told(&self, ops: Vec<Op>, keys: Vec<Key>) -> Result<Committed, CommitError> {
        let (store, rules) = (self.store.clone(), self.rules.clone());
        let (hooks, policies) = (self.hooks.clone(), self.policies.clone());
        let task = tokio::spawn(async move {
            let result = store.commit(ops).await;
            rules.refresh(&store, &keys);
            hooks.refresh(&store, &keys);
            policies.refresh(&store, &keys);
            result
        });
        task.await.unwrap_or_else(|error| Err(CommitError::Failed(error.to_string())))
    }
}

/// An expectation that did not hold.
pub struct Conflict {
    /// The index of the operation.
    pub op: usize,
    pub current: Option<Entry>,
}

impl Answer {
    /// The stored object.
    pub fn object(code: u16, raw: Bytes) -> Answer {
        Answer { code, raw, warnings: Vec::new(), is_resource: true }
    }

    /// Something else than the call's kind.
    pub fn other(code: u16, raw: impl Into<Bytes>) -> Answer {
        Answer { code, raw: raw.into(), warnings: Vec::new(), is_resource: false }
    }

    pub fn warn(mut self, warnings: Vec<String>) -> Answer {
        self.warnings = warnings;
        self
    }
}

/// A time as metadata has it: RFC 3339 with whole seconds.
pub fn timestamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn read_error(error: ReadError) -> ApiError {
    match error {
        ReadError::Compacted { asked, oldest } => {
            ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        ReadError::Future { asked, current } => too_large_version(asked, current),
        ReadError::Failed(why) => ApiError::internal(why),
    }
}

/// The version asked for is not reached yet (k8s.io/apiserver's storage/errors.go).
pub(super) fn too_large_version(asked: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let cause = Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    };
    ApiError::new(504, Reason::Timeout, message).cause(cause).retry_after(1)
}

pub(super) fn commit_error(error: CommitError) -> ApiError {
    match error {
        CommitError::Conflict { .. } => ApiError::internal("a commit that expects nothing failed"),
        CommitError::Overloaded => {
            ApiError::too_many_requests("too many writes are waiting, please try again later", 1)
        }
        CommitError::NoSpace(why) => {
            let message = format!(
                "the store's disk is full ({why}): free space on it; reads and deletions still work"
            );
            ApiError::new(507, Reason::InternalError, message)
        }
        CommitError::Failed(why) => {
            ApiError::unavailable(format!("the store takes no more writes: {why}"))
        }
    }
}

impl ApiServer {
    /// Bytes of the registry of artifacts, as a GET of `path` answers them.
    pub(super) async fn bytes(&self, user: &User, path: &str) -> Result<Bytes, ApiError> {
        let Some(artifacts) = &self.artifacts else {
            return Err(ApiError::unavailable("this server has no registry of artifacts"));
        };
        let request = http::Request::get(path)
            .body(http_body_util::Empty::<Bytes>::new())
            .map_err(|e| ApiError::bad_request(format!("{path:?} is no path: {e}")))?;
        let response = artifacts.respond(&self.rules, user, request).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(ApiError::internal)?.to_bytes();
        if code == 200 { Ok(body) } else { Err(ApiError::from_response(code, &body)) }
    }
}
