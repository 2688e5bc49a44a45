//! Gives pods their nodes. Changes of the cache go into the snapshot and the queue as they come;
//! the loop tries all waiting pods in one pure cycle and binds the results side by side. A placed
//! pod counts as assumed until the cache shows it bound; a refused one waits in the queue from the
//! moment of the decision, so that no change falls between the two.

pub mod cycle;
pub mod framework;
pub mod plugins;
pub mod queue;
pub mod snapshot;
pub mod volumes;
mod volumes_write;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use crate::api::resource::Gvr;
use crate::api::{ApiError, Object};
use crate::base::SharedClock;
use crate::client::cache::{AnyObject, Cache, Changed};
use crate::client::event::Notice;
use crate::client::{Client, Patch, Target, WriteOptions};
use cycle::Decision;
use framework::{Framework, Wake};
use queue::Queue;
use snapshot::{PodInfo, Snapshot};
use volumes::Step;

/// Pods decided in one cycle.
const BATCH_PODS: usize = 4096;
/// Binds and status writes in flight; they share the store's group commits.
const WRITES_IN_FLIGHT: usize = 128;
/// The waits between questions whether a binding without an answer happened.
const ASK_WAITS: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
/// Pods with this `schedulerName` are ours.
const NAME: &str = "default-scheduler";

/// Where notices about pods go; must not block.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// How the scheduler behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A refused pod is tried again after this time even if nothing happened: a lost signal costs
    /// time only.
    pub retry_anyway: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { retry_anyway: Duration::from_secs(300) }
    }
}

/// The scheduler; [`Scheduler::run`] is its loop.
pub struct Scheduler {
    client: Client,
    clock: SharedClock,
    framework: Framework,
    tell: Tell,
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
    options: Options,
}

struct State {
    snapshot: Snapshot,
    queue: Queue,
    /// The pods that need a node as last seen, those whose binding is under way included.
    pending: HashMap<String, Arc<dyn AnyObject>>,
}

impl Scheduler {
    /// Listens to `cache`, which must keep Nodes, Pods, claims, volumes and storage classes (and should
    /// be filled after this call).
    pub fn new(
        client: Client,
        cache: &Cache,
        clock: SharedClock,
        tell: Tell,
        options: Options,
    ) -> Scheduler {
        let state = Arc::new(Mutex::new(State::new(options)));
        let wake = Arc::new(Notify::new());
        let (heard, woken) = (state.clone(), wake.clone());
        cache.listen(Box::new(move |change| {
            let take_in = AssertUnwindSafe(|| heard.lock().take_in(change));
            match std::panic::catch_unwind(take_in) {
                Ok(false) => {}
                Ok(true) => woken.notify_one(),
                // The cache's own task must go on.
                Err(_) => {
                    tracing::error!(key = %change.key, "the scheduler panicked over a change")
                }
            }
        }));
        let framework = plugins::default_framework();
        Scheduler { client, clock, framework, tell, state, wake, options }
    }

    /// Schedules until it is dropped.
    pub async fn run(&self) {
        loop {
            let woken = self.wake.notified();
            let (decisions, next) = self.decide();
            if decisions.is_empty() {
                let until = |at: Timestamp| at.duration_since(self.clock.now());
                let wait = next.map(|at| Duration::try_from(until(at)).unwrap_or_default());
                let wait = wait.unwrap_or(self.options.retry_anyway).max(Duration::from_millis(1));
                tokio::select! {
                    () = woken => {}
                    () = self.clock.sleep(wait) => {}
                }
                continue;
            }
            futures::stream::iter(decisions)
                .for_each_concurrent(WRITES_IN_FLIGHT, |decision| self.perform(decision))
                .await;
        }
    }

    /// One pure cycle over what waits. Refused pods are back in the queue before the lock is let go:
    /// a change that comes next finds them there. Also tells when the next refused pod comes.
    fn decide(&self) -> (Vec<Decision>, Option<Timestamp>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.queue.advance(now);
        let pods = state.queue.take(BATCH_PODS);
        let decisions = cycle::schedule(pods, &mut state.snapshot, &self.framework);
        for decision in &decisions {
            match decision {
                Decision::Bind { .. } => {}
                Decision::Provide { pod, .. } => state.expect(pod.clone(), now),
                Decision::Refuse { pod, refusal } => {
                    state.put_aside(pod.clone(), refusal.wakes.clone(), now);
                }
                Decision::Fail { pod, .. } => state.put_aside(pod.clone(), Vec::new(), now),
            }
        }
        (decisions, state.queue.next_at())
    }

    async fn perform(&self, decision: Decision) {
        match decision {
            Decision::Bind { pod, node } => {
                let seen = self.state.lock().pending.get(&pod.uid).cloned();
                let bound = match self.bind(&pod, &node).await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::debug!(pod = %pod.key, node, %error, "binding failed");
                        !error.is_not_found() && self.is_bound(&pod, &node).await
                    }
                };
                if bound { self.tell_bound(&pod, &node, seen) } else { self.take_back(&pod) }
            }
            Decision::Provide { pod, node, steps } => {
                for step in &steps {
                    if let Err(error) = volumes_write::perform(&self.client, step, &node).await {
                        tracing::debug!(pod = %pod.key, node, %error, "a volume was not provided");
                        // What was assumed is taken back; the pod comes again after a back-off.
                        self.recall(step).await;
                        let now = self.clock.now();
                        self.state.lock().put_aside(pod, Vec::new(), now);
                        return;
                    }
                }
            }
            Decision::Refuse { pod, refusal } => {
                self.tell_refused(&pod, "Unschedulable", refusal.message()).await;
            }
            Decision::Fail { pod, text } => self.tell_refused(&pod, "SchedulerError", text).await,
        }
    }

    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), ApiError> {
        let key = &pod.key;
        let target = Target::one::<Pod>(&key.namespace, &key.name).subresource("binding");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let options = WriteOptions { field_manager: NAME.into(), ..WriteOptions::default() };
        self.client.api.create(&target, Object::from_value(binding)?, &options).await.map(|_| ())
    }

    /// Looks what is true of what a step was about.
    async fn recall(&self, step: &Step) {
        let claim = match step {
            Step::Give { claim, .. } | Step::Select { claim } => claim,
        };
        let key = &claim.key;
        let claim = self.client.get::<PersistentVolumeClaim>(&key.namespace, &key.name).await;
        let volume = match step {
            Step::Give { volume, .. } => {
                Some(self.client.get::<PersistentVolume>("", &volume.volume).await)
            }
            Step::Select { .. } => None,
        };
        let mut state = self.state.lock();
        match claim {
            Ok(claim) => state.snapshot.volumes.set_claim(key, Some(&claim)),
            Err(error) if error.is_not_found() => state.snapshot.volumes.set_claim(key, None),
            Err(_) => {}
        }
        if let Some(Ok(volume)) = volume {
            let name = volume.metadata.name.clone().unwrap_or_default();
            state.snapshot.volumes.set_volume(&name, Some(&volume));
        }
    }

    fn tell_bound(&self, pod: &PodInfo, node: &str, seen: Option<Arc<dyn AnyObject>>) {
        if let Some(seen) = seen {
            let message = format!("Successfully assigned {} to {node}", pod.key);
            (self.tell)(Notice::normal(&*seen, "Scheduled", message));
        }
    }

    /// Whether a binding that failed happened nevertheless (its answer was lost): its place must not
    /// be given away then. The cache shows such a pod as bound sooner or later.
    async fn is_bound(&self, pod: &PodInfo, node: &str) -> bool {
        for wait in ASK_WAITS {
            match self.client.get::<Pod>(&pod.key.namespace, &pod.key.name).await {
                Ok(found) => {
                    let on = found.spec.and_then(|spec| spec.node_name);
                    return found.metadata.uid.as_ref() == Some(&pod.uid)
                        && on.as_deref() == Some(node);
                }
                Err(error) if error.is_not_found() => return false,
                Err(_) => self.clock.sleep(wait).await,
            }
        }
        false
    }

    /// Takes an assumption back, which may help others; the pod comes again after a back-off unless
    /// it is gone.
    fn take_back(&self, pod: &PodInfo) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.snapshot.forget(&pod.uid) {
            state.queue.wake(Wake::PodGone);
            // It may want something else by now.
            let seen = state.pending.get(&pod.uid).and_then(|pod| pod.as_any().downcast_ref());
            if let Some(pod) = seen.map(PodInfo::of) {
                state.put_aside(pod, Vec::new(), now);
            }
        }
    }

    async fn tell_refused(&self, pod: &PodInfo, reason: &str, message: String) {
        let Some(pending) = self.state.lock().pending.get(&pod.uid).cloned() else { return };
        (self.tell)(Notice::warning(&*pending, "FailedScheduling", message.clone()));
        if has_condition(&*pending, &message) {
            return;
        }
        let now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason,
            "message": message, "lastTransitionTime": now,
        });
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": pod.uid}, "status": {"conditions": [condition]},
        }));
        let target = Target::one::<Pod>(&pod.key.namespace, &pod.key.name).subresource("status");
        let options = WriteOptions { field_manager: NAME.into(), ..WriteOptions::default() };
        if let Err(error) = self.client.api.patch(&target, patch, &options).await {
            tracing::debug!(pod = %pod.key, %error, "the condition PodScheduled was not written");
        }
    }
}

/// Whether the pod already tells this refusal.
fn has_condition(pod: &dyn AnyObject, message: &str) -> bool {
    let status = pod.as_any().downcast_ref::<Pod>().and_then(|pod| pod.status.as_ref());
    let conditions = status.and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.message.as_deref() == Some(message)
    })
}

impl State {
    fn new(options: Options) -> State {
        let retry_anyway = SignedDuration::try_from(options.retry_anyway);
        State {
            snapshot: Snapshot::default(),
            queue: Queue::new(retry_anyway.unwrap_or(SignedDuration::MAX)),
            pending: HashMap::new(),
        }
    }

    /// Lets a pod that got no node wait; one that is gone does not.
    fn put_aside(&mut self, pod: PodInfo, wakes: Vec<Wake>, now: Timestamp) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            self.queue.refuse(pod, created(seen.meta()), wakes, now);
        }
    }

    /// Lets a pod wait for its claims.
    fn expect(&mut self, pod: PodInfo, now: Timestamp) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            let wakes = pod.volumes.wakes();
            self.queue.expect(pod, created(seen.meta()), wakes, now);
        }
    }

    /// Takes a change of storage in; answers whether it was one.
    fn take_in_storage(&mut self, change: &Changed) -> bool {
        let volumes = &mut self.snapshot.volumes;
        if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            volumes.set_claim(&change.key, change.typed::<PersistentVolumeClaim>().1);
            self.queue.wake(volumes::wake_of(&change.key));
        } else if change.resource == Gvr::of::<PersistentVolume>() {
            if volumes.set_volume(&change.key.name, change.typed::<PersistentVolume>().1) {
                self.queue.wake(Wake::Volume);
            }
        } else if change.resource == Gvr::of::<StorageClass>() {
            volumes.set_class(&change.key.name, change.typed::<StorageClass>().1);
            self.queue.wake(Wake::Volume);
        } else {
            return false;
        }
        true
    }

    /// Takes a change in; answers whether the loop should look.
    fn take_in(&mut self, change: &Changed) -> bool {
        if self.take_in_storage(change) {
            return true;
        }
        if change.resource == Gvr::of::<Node>() {
            let (_, new) = change.typed::<Node>();
            match new {
                Some(node) => {
                    if !self.snapshot.set_node(node) {
                        return false;
                    }
                    self.queue.wake(Wake::Node);
                }
                None => self.snapshot.remove_node(&change.key.name),
            }
            return true;
        }
        if change.resource != Gvr::of::<Pod>() {
            return false;
        }
        let (old, new) = change.typed::<Pod>();
        let mut freed = false;
        if let Some(old) = old
            && old.metadata.uid != new.and_then(|new| new.metadata.uid.clone())
        {
            let uid = old.metadata.uid.as_deref().unwrap_or_default();
            freed |= self.snapshot.remove_pod(uid);
            self.queue.forget(uid);
            self.pending.remove(uid);
        }
        let mut waits = false;
        if let (Some(pod), Some(shared)) = (new, &change.new) {
            freed |= self.snapshot.set_pod(pod);
            waits = self.queue_pod(pod, shared);
        }
        if freed {
            self.queue.wake(Wake::PodGone);
        }
        freed || waits
    }

    /// Queues a pod that needs a node, forgets one that does not.
    fn queue_pod(&mut self, pod: &Pod, shared: &Arc<dyn AnyObject>) -> bool {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !needs_node(pod) {
            self.queue.forget(&uid);
            self.pending.remove(&uid);
            return false;
        }
        self.pending.insert(uid.clone(), shared.clone());
        if self.snapshot.is_placed(&uid) {
            return false;
        }
        self.queue.put(PodInfo::of(pod), created(&pod.metadata))
    }
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn needs_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, "Succeeded" | "Failed")
}
