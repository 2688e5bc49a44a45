//! The node agent: runs the pods that are bound to this node and tells the API how they are.
//!
//! One loop ([`manager`]) owns the table of pod workers ([`pod_worker`], one task a pod) and hands
//! them what concerns them: objects from the watch, exits from the runtime. What a pod does next is
//! decided by the pure [`pod_state`] and [`pod_step`]. The agent imports neither the API server nor
//! the proxy, and knows nothing of Wasm: that is [`crate::runtime`]'s.

mod admission;
mod commands;
pub mod container;
pub mod container_state;
pub mod env;
mod eviction;
mod fencing;
mod grpc_health;
mod hooks;
mod host_ports;
mod http_get;
mod image_volumes;
pub mod images;
mod inbox;
pub mod inspect;
pub mod ip;
mod kubelet;
mod leaving;
mod local_storage;
mod local_volumes;
pub mod logs;
mod machine;
mod manager;
mod notices;
mod options;
mod own_names;
mod pleg;
mod pod_events;
mod pod_hooks;
#[cfg(test)]
mod pod_hooks_tests;
pub mod pod_state;
#[cfg(test)]
mod pod_state_tests;
pub mod pod_status;
pub mod pod_step;
mod pod_worker;
mod pods;
mod probes;
mod query;
mod register;
pub mod restore;
pub mod service_links;
mod setup;
pub mod simulated;
mod sources;
mod start;
mod static_pods;
mod status;
mod streams;
mod termination;
mod tokens;
pub mod tunnel;
mod usage;
mod volumes_check;
mod workload;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node as NodeObject, Pod, Secret};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::api::kinds::pod_room;
use crate::api::{ApiError, Gvr};
use crate::base::dirty_set::DirtySet;
use crate::base::ids::Ids;
use crate::base::keyed_locks::KeyedLocks;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::Cache;
use crate::client::event::Notice;
use crate::client::{Client, SharedApi};
use crate::runtime::{Names, Runtime, RuntimeEvent};
use crate::volumes::{Allocatable, Context, Host, Objects};

pub use images::Images;
pub use machine::Thresholds;
pub use options::{Capacity, LeaseTimes, Options, Reserved};
pub use static_pods::Source as StaticPodSource;

use logs::LogStore;
use manager::Manager;

/// Events of the runtime that wait for the loop; beyond it the runtime waits.
const RUNTIME_EVENTS: usize = 1024;
/// Probes under way at once on the whole node.
const PARALLEL_PROBES: usize = 64;
/// Statuses of pods on their way at once. Each takes a connection while the API is slow: thousands
/// of them would take what is left of it, and the machine's ports.
const PARALLEL_STATUSES: usize = 64;
/// Pods whose files are made on the disk at the same time: a thousand pods that start together are
/// no reason for a hundred threads.
const PARALLEL_VOLUMES: usize = 8;

/// Takes the node's Events; must not block.
pub type Notices = Arc<dyn Fn(Notice) + Send + Sync>;

/// What a node is put together from.
pub struct Parts {
    pub api: SharedApi,
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
    /// Resolves the names that guests look up.
    pub names: Arc<dyn Names>,
    /// The cluster's Services, of which containers are told.
    pub services: Arc<dyn service_links::Services>,
    pub clock: SharedClock,
    pub ids: Arc<Ids>,
    pub notices: Notices,
}

/// A node agent. Cheap to clone; [`Node::run`] once.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    events: Arc<parking_lot::Mutex<Option<mpsc::Receiver<RuntimeEvent>>>>,
}

/// What the workers share.
pub struct Shared {
    options: Options,
    client: Client,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    names: Arc<dyn Names>,
    services: Arc<dyn service_links::Services>,
    clock: SharedClock,
    ids: Arc<Ids>,
    notices: Notices,
    ips: ip::IpPool,
    logs: Arc<LogStore>,
    pods: pods::PodTable,
    admission: admission::Admission,
    static_pods: static_pods::StaticPods,
    /// Earlier looks at the processor time of all pods together.
    looks: usage::Looks,
    pleg: pleg::Pleg,
    images_seen: register::ImagesSeen,
    image_volumes: image_volumes::ImageVolumes,
    /// By digest: whose code is being made ready.
    preparing: KeyedLocks,
    tokens: tokens::PodTokens,
    config_maps: sources::Held<ConfigMap>,
    secrets: sources::Held<Secret>,
    core_dumps: Arc<inspect::KeptDumps>,
    facts: Arc<Facts>,
    runtime_events: mpsc::Sender<RuntimeEvent>,
    probe_permits: Semaphore,
    status_permits: Semaphore,
    volume_permits: Arc<Semaphore>,
    applet_permits: Arc<Semaphore>,
    workload_calls: Semaphore,
    /// The Node object should be written again.
    node_changed: Notify,
    /// The Node object is gone, or does not say what was told.
    node_lost: Notify,
    /// The same, for the Lease.
    lease_lost: Notify,
    /// After how long without a heartbeat the control plane gives the node up, once that is known.
    grace: watch::Sender<Option<Duration>>,
    /// Why the server does not have the node.
    refused: watch::Sender<Option<ApiError>>,
    renewals: fencing::Renewals,
    left: leaving::Left,
    /// The status of the Ready condition that was told last.
    told_ready: parking_lot::Mutex<Option<String>>,
    chatter: parking_lot::Mutex<notices::Chatter>,
}

/// What volumes and environments are told of the node.
pub struct Facts {
    name: String,
    host_ip: IpAddr,
    host_ip_text: String,
    allocatable: Allocatable,
    host: Host,
}

impl Facts {
    fn context<'a>(&'a self, pod: &'a Pod, pod_ip: IpAddr, objects: &'a Objects) -> Context<'a> {
        Context {
            pod,
            node_name: &self.name,
            host_ip: self.host_ip,
            pod_ip,
            allocatable: self.allocatable,
            objects,
            host: &self.host,
        }
    }
}

impl Shared {
    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.options.data_dir.join("pods").join(uid)
    }

    fn pod_log_dir(&self, pod: &Pod) -> PathBuf {
        let meta = &pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.logs.pod_dir(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid))
    }

    fn container_log_dir(&self, pod: &Pod, container: &str) -> PathBuf {
        self.pod_log_dir(pod).join(container)
    }

    fn lease_times(&self) -> LeaseTimes {
        self.options.lease_times(*self.grace.borrow())
    }

    async fn machine(&self) -> machine::Machine {
        tokio::task::spawn_blocking(machine::read).await.unwrap_or_default()
    }

    async fn pressure(&self) -> machine::Pressure {
        let (dir, thresholds) = (self.options.data_dir.clone(), self.options.eviction);
        let read = move || machine::pressure(&dir, &thresholds);
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

impl Node {
    /// Prepares the data directory. Errors name the path.
    pub fn new(options: Options, parts: Parts) -> std::io::Result<Node> {
        let named = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("{}: {error}", options.data_dir.display()))
        };
        let log_dir = options.data_dir.join("logs");
        let logs = LogStore::open(log_dir, options.logs, parts.clock.clone()).map_err(named)?;
        let host = local_volumes::host(&options)?;
        let image_volumes = image_volumes::ImageVolumes::new(&options.data_dir)?;
        let allocatable = options.allocatable();
        let facts = Facts {
            host,
            name: options.name.clone(),
            host_ip: options.host_ip,
            host_ip_text: options.host_ip.to_string(),
            allocatable: Allocatable {
                cpu_millicores: i64::try_from(allocatable.cpu_millicores).unwrap_or(i64::MAX),
                memory_bytes: i64::try_from(allocatable.memory_bytes).unwrap_or(i64::MAX),
                storage_bytes: i64::try_from(allocatable.storage_bytes).unwrap_or(i64::MAX),
            },
        };
        let chatter = parking_lot::Mutex::new(notices::Chatter::new(parts.clock.now()));
        let looks = usage::Looks::since(parts.clock.now());
        let admission = admission::Admission::new(&options);
        let static_pods = static_pods::StaticPods::new(options.static_pods.as_ref());
        let (runtime_events, events) = mpsc::channel(RUNTIME_EVENTS);
        let shared = Shared {
            options,
            client: Client::new(parts.api, "kubelet"),
            runtime: parts.runtime,
            images: parts.images,
            names: parts.names,
            services: parts.services,
            clock: parts.clock,
            ids: parts.ids,
            notices: parts.notices,
            ips: ip::IpPool::default(),
            logs: Arc::new(logs),
            pods: pods::PodTable::default(),
            admission,
            static_pods,
            looks,
            pleg: pleg::Pleg::default(),
            images_seen: register::ImagesSeen::default(),
            image_volumes,
            preparing: KeyedLocks::default(),
            tokens: tokens::PodTokens::default(),
            config_maps: sources::Held::default(),
            secrets: sources::Held::default(),
            core_dumps: Arc::default(),
            facts: Arc::new(facts),
            runtime_events,
            probe_permits: Semaphore::new(PARALLEL_PROBES),
            status_permits: Semaphore::new(PARALLEL_STATUSES),
            volume_permits: Arc::new(Semaphore::new(PARALLEL_VOLUMES)),
            applet_permits: Arc::new(Semaphore::new(streams::MAX_APPLETS)),
            workload_calls: Semaphore::new(workload::MAX_CALLS),
            node_changed: Notify::new(),
            node_lost: Notify::new(),
            lease_lost: Notify::new(),
            grace: watch::channel(None).0,
            refused: watch::channel(None).0,
            renewals: fencing::Renewals::default(),
            left: leaving::Left::default(),
            told_ready: parking_lot::Mutex::default(),
            chatter,
        };
        let events = Arc::new(parking_lot::Mutex::new(Some(events)));
        Ok(Node { shared: Arc::new(shared), events })
    }

    pub fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// Tells after how long without a heartbeat the control plane gives the node up: its Lease is
    /// renewed three times within that at least.
    pub fn set_grace(&self, grace: Duration) {
        self.shared.grace.send_if_modified(|told| told.replace(grace) != Some(grace));
    }

    /// Resolves if the server refuses the node's registration: it will not have a Node of this name,
    /// or with these labels and taints.
    pub async fn refused(&self) -> ApiError {
        let mut refused = self.shared.refused.subscribe();
        match refused.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            // The sender lives as long as self, and what was waited for is there.
            _ => std::future::pending().await,
        }
    }

    /// Starts the agent's tasks; they end, and all guests with them, when the tasks stop.
    pub fn run(&self, tasks: &Tasks) {
        let Some(events) = self.events.lock().take() else { return };
        let cache = Cache::new();
        let dirty = DirtySet::default();
        let (marks, shared) = (dirty.clone(), self.shared.clone());
        cache.listen(Box::new(move |change| {
            if change.resource == Gvr::of::<NodeObject>() {
                let (_, node) = change.typed::<NodeObject>();
                register::observe(&shared, node);
            } else {
                marks.mark(change.key.clone());
            }
        }));
        cache.slim::<Pod>(pod_room::give_back);
        cache.lean();
        let api = self.shared.client.api.clone();
        let name = &self.shared.options.name;
        cache.keep::<NodeObject>(api.clone(), &format!("metadata.name={name}"), tasks);
        cache.keep::<Pod>(api, &format!("spec.nodeName={name}"), tasks);
        tasks.spawn("node registration", register::keep_node(self.shared.clone()));
        tasks.spawn("node usage", usage::keep_looking(self.shared.clone()));
        tasks.spawn("node lease", register::keep_lease(self.shared.clone()));
        if self.shared.options.fence {
            tasks.spawn("fencing", fencing::keep_fencing(self.shared.clone()));
        }
        tasks.spawn("local volumes", local_volumes::reclaim(self.shared.clone()));
        tasks.spawn("image volumes", image_volumes::keep_collecting(self.shared.clone()));
        tasks.spawn("local storage", local_storage::keep_looking(self.shared.clone()));
        if let Some(source) = self.shared.options.static_pods.clone() {
            let reading = static_pods::keep_reading(self.shared.clone(), source, dirty.clone());
            tasks.spawn("static pods", reading);
        }
        let mirrors = static_pods::keep_mirrors(self.shared.clone(), cache.clone());
        tasks.spawn("mirrors", mirrors);
        let manager = Manager::new(self.shared.clone(), cache, dirty);
        tasks.spawn_until_done("node", manager.run(events, tasks.stop()));
    }
}
