//! One loop owns the table of pod workers ([`PodWorker`], one task a pod) and hands them what
//! concerns them: objects from the watch, exits from the runtime. It begins a worker for each pod that
//! has none, and looks at all of them again on a slow period.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::inbox::{Desired, Inbox, Message};
use super::leaving::Leaving;
use super::pod_worker::PodWorker;
use super::pods::Object;
use super::{Shared, admission, pod_status, static_pods, volumes_check};
use crate::api::kinds::static_pod;
use crate::api::{Gvr, ObjectKey};
use crate::base::dirty_set::DirtySet;
use crate::base::tasks::{Stop, Task};
use crate::client::cache::{Cache, View};
use crate::runtime::RuntimeEvent;

/// Events that one turn takes.
const BATCH_EVENTS: usize = 256;
/// In so many parts all pods are looked at within a period: all of them at once would be awake
/// together, and ask the API together.
const REFRESH_PARTS: u32 = 30;

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

pub(super) struct Worker {
    pub(super) inbox: Arc<Inbox>,
    key: ObjectKey,
    refreshes: bool,
    /// Ends with the loop; the containers are dropped with it.
    _task: Task,
}

/// Owns the table of workers.
pub(super) struct Manager {
    pub(super) node: Arc<Shared>,
    pub(super) cache: Arc<Cache>,
    dirty: DirtySet<ObjectKey>,
    /// By uid: a pod that is recreated under its name has two for a while.
    pub(super) workers: HashMap<String, Worker>,
    pub(super) by_key: HashMap<ObjectKey, String>,
    pub(super) statics: static_pods::Statics,
    /// The pods of the API are known.
    pub(super) is_synced: bool,
    /// The part that is looked at next.
    part: u32,
    ended: mpsc::UnboundedSender<Event>,
    /// Each worker sends once, so its length is bounded by the number of workers.
    endings: mpsc::UnboundedReceiver<Event>,
}

impl Manager {
    pub(super) fn new(node: Arc<Shared>, cache: Arc<Cache>, dirty: DirtySet<ObjectKey>) -> Manager {
        let (ended, endings) = mpsc::unbounded_channel();
        let (workers, by_key) = (HashMap::new(), HashMap::new());
        let (statics, is_synced) = (static_pods::Statics::default(), false);
        Manager { node, cache, dirty, workers, by_key, statics, is_synced, part: 0, ended, endings }
    }

    /// Works until the node is to stop, and lets what runs end well.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<RuntimeEvent>, stop: Stop) {
        let work = Box::pin(self.work(&mut events));
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = work => {}
        }
        let leaving = Leaving::of(&self.node);
        self.workers.clear();
        leaving.end(&self.node, &mut events).await;
    }

    async fn work(&mut self, events: &mut mpsc::Receiver<RuntimeEvent>) {
        self.wait_for_pods().await;
        if self.is_synced {
            self.take_over().await;
        }
        let cache = self.cache.clone();
        let mut synced = Box::pin(async move { cache.wait_synced().await });
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
                () = &mut synced, if !self.is_synced => {
                    self.is_synced = true;
                    self.take_over().await;
                    self.look_at_all();
                }
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

    /// What an agent before this one left, once the pods of the API are known.
    async fn take_over(&mut self) {
        self.reserve_addresses();
        self.clean_up().await;
        self.begin_admitted();
    }

    /// Pods that ran before come first, so that no new one is given the room that they need.
    fn begin_admitted(&mut self) {
        let keys: Vec<ObjectKey> = {
            let view = self.cache.view();
            let pods = view.all::<Pod>().filter(|pod| admission::was_admitted(pod));
            pods.map(|pod| ObjectKey::of(&pod.metadata)).collect()
        };
        keys.into_iter().for_each(|key| self.sync(key));
    }

    /// After a time without the API: what it told meanwhile was passed over.
    fn look_at_all(&self) {
        let pods = self.cache.view().keys(&Gvr::of::<Pod>());
        for key in pods.into_iter().chain(self.static_keys()) {
            self.dirty.mark(key);
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
        if self.sync_static(&key) || !self.is_synced {
            return;
        }
        let (pod, raw) = {
            let view = self.cache.view();
            (view.get_key::<Pod>(&key).cloned(), view.raw::<Pod>(&key).cloned())
        };
        // Mirrors show what runs here, and run nothing.
        let pod = pod.filter(|pod| static_pod::mirrors(pod).is_none());
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        let known = self.by_key.get(&key).cloned();
        if known != uid
            && let Some(worker) = known.as_ref().and_then(|uid| self.workers.get(uid))
        {
            worker.inbox.desire(Desired::Gone);
            if let Some(uid) = self.by_key.remove(&key) {
                // For the API its place is free, whatever may still be ending here.
                self.node.admission.release(&uid);
            }
        }
        let (Some(pod), Some(uid)) = (pod, uid) else { return };
        let object = Object::new(pod, raw);
        match self.workers.get(&uid) {
            Some(worker) => worker.inbox.desire(Desired::Pod(object)),
            None => self.begin(key, uid, object),
        }
    }

    pub(super) fn begin(&mut self, key: ObjectKey, uid: String, object: Object) {
        let inbox = Arc::new(Inbox::default());
        let pod = object.pod();
        let refreshes = volumes_check::is_worthwhile(&pod);
        // Here, so that pods have their places in the order in which they come.
        let admitted = self.node.admission.admit(&pod);
        drop(pod);
        let worker = (self.node.clone(), object, inbox.clone());
        let (ended, of) = (self.ended.clone(), (uid.clone(), key.clone()));
        let task = tokio::spawn(async move {
            let (node, object, inbox) = worker;
            let work = async move {
                let admitted = admission::reconsider(&node, &object.pod(), admitted).await;
                PodWorker::new(node, object, inbox, admitted).run().await;
            };
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
        self.node.admission.release(&uid);
        self.static_ended(&key, &uid);
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
        drop(view);
        for key in self.static_keys().into_iter().filter(|key| part_of(key) == part) {
            self.dirty.mark(key);
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
        let (view, statics) = (self.cache.view(), self.static_uids());
        for pod in view.all::<Pod>() {
            if static_pod::mirrors(pod).is_some_and(|uid| statics.iter().all(|one| one != uid)) {
                continue;
            }
            if let Some(ip) = pod_status::address_to_keep(pod) {
                self.node.ips.reserve(ip);
            }
        }
    }

    /// Removes directories of pods that went while the agent was away.
    async fn clean_up(&self) {
        let mut uids: BTreeSet<String> = {
            let view = self.cache.view();
            view.all::<Pod>().filter_map(|pod| pod.metadata.uid.clone()).collect()
        };
        uids.extend(self.static_uids());
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
