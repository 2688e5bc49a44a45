//! The node agent: runs the pods that are bound to this node and tells the API how they are.
//!
//! One loop owns the table of pod workers ([`pod_worker`], one task a pod) and hands them what
//! concerns them: objects from the watch, exits from the runtime. What a pod does next is decided
//! by the pure [`pod_state`] and [`pod_step`]. The agent imports neither the API server nor the
//! proxy, and knows nothing of Wasm: that is [`crate::runtime`]'s.

pub mod container;
pub mod env;
mod eviction;
mod fencing;
mod host_aliases;
mod image_volumes;
pub mod images;
mod inbox;
pub mod inspect;
pub mod ip;
mod kubelet;
mod local_storage;
mod local_volumes;
pub mod logs;
mod machine;
mod notices;
mod options;
mod pleg;
mod pod_events;
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
mod setup;
pub mod simulated;
mod sources;
mod start;
mod status;
mod streams;
mod termination;
mod tokens;
pub mod tunnel;
mod usage;
mod volumes_check;
mod workload;

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::api::kinds::pod_room;
use crate::api::{Gvr, ObjectKey};
use crate::base::dirty_set::DirtySet;
use crate::base::ids::Ids;
use crate::base::keyed_locks::KeyedLocks;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::{Cache, View};
use crate::client::event::Notice;
use crate::client::{Client, SharedApi};
use crate::runtime::{Names, Runtime, RuntimeEvent};
use crate::volumes::{Allocatable, Context, Host, Objects};

pub use images::Images;
pub use machine::Thresholds;
pub use options::{Capacity, Options, Reserved};

use inbox::{Desired, Inbox, Message};
use logs::LogStore;
use pod_worker::{PodWorker, Task};
use pods::Object;

/// Events of the runtime that wait for the loop; beyond it the runtime waits.
const RUNTIME_EVENTS: usize = 1024;
/// Events that one turn takes.
const BATCH_EVENTS: usize = 256;
/// Probes under way at once on the whole node.
const PARALLEL_PROBES: usize = 64;
/// Pods whose files are made on the disk at the same time: a thousand pods that start together are
/// no reason for a hundred threads.
const PARALLEL_VOLUMES: usize = 8;

/// In so many parts all pods are looked at within a period: all of them at once would be awake
/// together, and ask the API together.
const REFRESH_PARTS: u32 = 30;

/// Takes the node's Events; must not block.
pub type Notices = Arc<dyn Fn(Notice) + Send + Sync>;

/// What a node is put together from.
pub struct Parts {
    pub api: SharedApi,
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
    /// Resolves the names that guests look up.
    pub names: Arc<dyn Names>,
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
    clock: SharedClock,
    ids: Arc<Ids>,
    notices: Notices,
    ips: ip::IpPool,
    logs: Arc<LogStore>,
    pods: pods::PodTable,
    /// Earlier looks at the processor time of all pods together.
    looks: usage::Looks,
    pleg: pleg::Pleg,
    images_seen: register::ImagesSeen,
    image_volumes: image_volumes::ImageVolumes,
    /// By digest: whose code is being made ready.
    preparing: KeyedLocks,
    tokens: tokens::PodTokens,
    config_maps: sources::Held,
    core_dumps: Arc<inspect::KeptDumps>,
    facts: Arc<Facts>,
    runtime_events: mpsc::Sender<RuntimeEvent>,
    probe_permits: Semaphore,
    volume_permits: Arc<Semaphore>,
    applet_permits: Arc<Semaphore>,
    workload_calls: Semaphore,
    /// The Node object should be written again.
    node_changed: Notify,
    /// The Node object is gone, or does not say what was told.
    node_lost: Notify,
    renewals: fencing::Renewals,
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
    api_service: Option<IpAddr>,
    host: Host,
}

impl Facts {
    fn context<'a>(&'a self, pod: &'a Pod, pod_ip: IpAddr, objects: &'a Objects) -> Context<'a> {
        Context {
            pod,
            node_name: &self.name,
            host_ip: self.host_ip,
            pod_ip,
            api_service: self.api_service,
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

    async fn machine(&self) -> machine::Machine {
        tokio::task::spawn_blocking(machine::read).await.unwrap_or_default()
    }

    async fn pressure(&self) -> machine::Pressure {
        let (dir, thresholds) = (self.options.data_dir.clone(), self.options.eviction);
        let read = move || machine::pressure(&dir, &thresholds);
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

/// Which part of a period a pod is looked at in.
fn part_of(key: &ObjectKey) -> u32 {
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % u64::from(REFRESH_PARTS)) as u32
}

/// What can wake the node's loop.
enum Event {
    /// A pod's object changed or went.
    Pod(ObjectKey),
    Runtime(RuntimeEvent),
    /// A worker is done, or it panicked.
    Ended {
        uid: String,
        key: ObjectKey,
        panicked: bool,
    },
    /// The slow look at everything.
    Refresh,
}

struct Worker {
    inbox: Arc<Inbox>,
    key: ObjectKey,
    refreshes: bool,
    /// Ends with the loop; the containers are dropped with it.
    _task: Task,
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
            api_service: options.api_service,
            allocatable: Allocatable {
                cpu_millicores: i64::try_from(allocatable.cpu_millicores).unwrap_or(i64::MAX),
                memory_bytes: i64::try_from(allocatable.memory_bytes).unwrap_or(i64::MAX),
            },
        };
        let chatter = parking_lot::Mutex::new(notices::Chatter::new(parts.clock.now()));
        let looks = usage::Looks::since(parts.clock.now());
        let (runtime_events, events) = mpsc::channel(RUNTIME_EVENTS);
        let shared = Shared {
            options,
            client: Client::new(parts.api, "kubelet"),
            runtime: parts.runtime,
            images: parts.images,
            names: parts.names,
            clock: parts.clock,
            ids: parts.ids,
            notices: parts.notices,
            ips: ip::IpPool::default(),
            logs: Arc::new(logs),
            pods: pods::PodTable::default(),
            looks,
            pleg: pleg::Pleg::default(),
            images_seen: register::ImagesSeen::default(),
            image_volumes,
            preparing: KeyedLocks::default(),
            tokens: tokens::PodTokens::default(),
            config_maps: sources::Held::default(),
            core_dumps: Arc::default(),
            facts: Arc::new(facts),
            runtime_events,
            probe_permits: Semaphore::new(PARALLEL_PROBES),
            volume_permits: Arc::new(Semaphore::new(PARALLEL_VOLUMES)),
            applet_permits: Arc::new(Semaphore::new(streams::MAX_APPLETS)),
            workload_calls: Semaphore::new(workload::MAX_CALLS),
            node_changed: Notify::new(),
            node_lost: Notify::new(),
            renewals: fencing::Renewals::default(),
            told_ready: parking_lot::Mutex::default(),
            chatter,
        };
        let events = Arc::new(parking_lot::Mutex::new(Some(events)));
        Ok(Node { shared: Arc::new(shared), events })
    }

    pub fn name(&self) -> &str {
        &self.shared.options.name
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
        let manager = Manager::new(self.shared.clone(), cache, dirty);
        tasks.spawn("node", manager.run(events));
    }
}

/// Owns the table of workers.
struct Manager {
    node: Arc<Shared>,
    cache: Arc<Cache>,
    dirty: DirtySet<ObjectKey>,
    /// By uid: a pod that is recreated under its name has two for a while.
    workers: HashMap<String, Worker>,
    by_key: HashMap<ObjectKey, String>,
    /// The part that is looked at next.
    part: u32,
    ended: mpsc::UnboundedSender<Event>,
    /// Each worker sends once, so its length is bounded by the number of workers.
    endings: mpsc::UnboundedReceiver<Event>,
}

impl Manager {
    fn new(node: Arc<Shared>, cache: Arc<Cache>, dirty: DirtySet<ObjectKey>) -> Manager {
        let (ended, endings) = mpsc::unbounded_channel();
        let (workers, by_key) = (HashMap::new(), HashMap::new());
        Manager { node, cache, dirty, workers, by_key, part: 0, ended, endings }
    }

    async fn run(mut self, mut events: mpsc::Receiver<RuntimeEvent>) {
        self.cache.wait_synced().await;
        self.reserve_addresses();
        self.clean_up().await;
        let mut refresh = Box::pin(self.sleep_refresh());
        let mut batch: Vec<Event> = Vec::new();
        let mut from_runtime: Vec<RuntimeEvent> = Vec::new();
        loop {
            tokio::select! {
                key = self.dirty.take() => {
                    self.dirty.done(&key);
                    batch.push(Event::Pod(key));
                }
                _ = events.recv_many(&mut from_runtime, BATCH_EVENTS) => {}
                Some(event) = self.endings.recv() => batch.push(event),
                () = &mut refresh => {
                    batch.push(Event::Refresh);
                    refresh = Box::pin(self.sleep_refresh());
                }
            }
            // Whatever else waits is taken in the same turn.
            while batch.len() < BATCH_EVENTS
                && let Some(key) = self.dirty.take().now_or_never()
            {
                self.dirty.done(&key);
                batch.push(Event::Pod(key));
            }
            batch.extend(from_runtime.drain(..).map(Event::Runtime));
            while let Ok(event) = self.endings.try_recv() {
                batch.push(event);
            }
            for event in batch.drain(..) {
                self.handle(event);
            }
        }
    }

    fn sleep_refresh(&self) -> impl Future<Output = ()> + Send + 'static {
        let node = self.node.clone();
        async move { node.clock.sleep(node.options.refresh_period / REFRESH_PARTS).await }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Pod(key) => self.sync(key),
            Event::Runtime(event) => self.node.pleg.route(event),
            Event::Ended { uid, key, panicked } => self.on_ended(uid, key, panicked),
            Event::Refresh => self.refresh(),
        }
    }

    /// Tells the pod's worker what the API has now; begins one for a new pod.
    fn sync(&mut self, key: ObjectKey) {
        let (pod, raw) = {
            let view = self.cache.view();
            (view.get_key::<Pod>(&key).cloned(), view.raw::<Pod>(&key).cloned())
        };
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        let known = self.by_key.get(&key).cloned();
        if known != uid
            && let Some(worker) = known.as_ref().and_then(|uid| self.workers.get(uid))
        {
            worker.inbox.desire(Desired::Gone);
            self.by_key.remove(&key);
        }
        let (Some(pod), Some(uid)) = (pod, uid) else { return };
        let object = Object::new(pod, raw);
        match self.workers.get(&uid) {
            Some(worker) => worker.inbox.desire(Desired::Pod(object)),
            None => self.begin(key, uid, object),
        }
    }

    fn begin(&mut self, key: ObjectKey, uid: String, object: Object) {
        let inbox = Arc::new(Inbox::default());
        let refreshes = volumes_check::is_worthwhile(&object.pod());
        let worker = (self.node.clone(), object, inbox.clone());
        let (ended, of) = (self.ended.clone(), (uid.clone(), key.clone()));
        let task = tokio::spawn(async move {
            let (node, object, inbox) = worker;
            let work = async move { PodWorker::new(node, object, inbox).run().await };
            let panicked = AssertUnwindSafe(work).catch_unwind().await.is_err();
            // The loop may be gone, and then nobody cares.
            let _ = ended.send(Event::Ended { uid: of.0, key: of.1, panicked });
        });
        let task = Task(task.abort_handle());
        self.by_key.insert(key.clone(), uid.clone());
        self.workers.insert(uid, Worker { inbox, key, refreshes, _task: task });
    }

    fn on_ended(&mut self, uid: String, key: ObjectKey, panicked: bool) {
        self.workers.remove(&uid);
        if self.by_key.get(&key) == Some(&uid) {
            self.by_key.remove(&key);
        }
        if panicked {
            tracing::error!(uid, pod = %key, "the worker of a pod panicked; it begins anew");
            // A bound for a pod that panics each time.
            self.dirty.mark_after(key, self.node.options.timing.restart_first);
        } else {
            // One of the same name may have come meanwhile.
            self.dirty.mark(key);
        }
    }

    /// The safety net, over a part of the pods each time: every worker sees its newest object, pods
    /// without a worker get one, and volumes are looked at.
    fn refresh(&mut self) {
        let part = self.part;
        self.part = (part + 1) % REFRESH_PARTS;
        let view = self.cache.view();
        for key in view.keys(&Gvr::of::<Pod>()) {
            if part_of(&key) == part && !self.is_up_to_date(&view, &key) {
                self.dirty.mark(key);
            }
        }
        for worker in self.workers.values().filter(|worker| part_of(&worker.key) == part) {
            if worker.refreshes {
                worker.inbox.push(Message::Refresh);
            }
            if !self.by_key.contains_key(&worker.key) {
                worker.inbox.desire(Desired::Gone);
            }
        }
    }

    /// Whether the worker of a pod took the newest object.
    fn is_up_to_date(&self, view: &View, key: &ObjectKey) -> bool {
        let Some(raw) = view.raw::<Pod>(key) else { return false };
        self.node.pods.get(&key.namespace, &key.name).is_some_and(|entry| entry.is_of(raw))
    }

    /// Addresses of pods that an agent before this one gave out stay theirs: no new pod may get one
    /// that a status still names.
    fn reserve_addresses(&self) {
        let view = self.cache.view();
        for pod in view.all::<Pod>() {
            if let Some(ip) = pod_status::address_to_keep(pod) {
                self.node.ips.reserve(ip);
            }
        }
    }

    /// Removes directories of pods that went while the agent was away.
    async fn clean_up(&self) {
        let uids: BTreeSet<String> = {
            let view = self.cache.view();
            view.all::<Pod>().filter_map(|pod| pod.metadata.uid.clone()).collect()
        };
        let (logs, dir) = (self.node.logs.clone(), self.node.options.data_dir.join("pods"));
        let memory = self.node.facts.host.memory_dir.clone();
        let work = move || -> std::io::Result<()> {
            if let Some(Err(error)) = memory.map(|memory| memory.retain(&uids)) {
                tracing::warn!(%error, "volumes of old pods are left in memory");
            }
            logs.retain(&uids)?;
            let list = match std::fs::read_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                list => list?,
            };
            for entry in list {
                let entry = entry?;
                if entry.file_name().to_str().is_none_or(|uid| !uids.contains(uid)) {
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
            tracing::warn!(%error, "directories of old pods are left behind");
        }
    }
}
