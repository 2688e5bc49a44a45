//! Gives pods their nodes. Changes of the cache go into the snapshot and the queue as they come;
//! the loop tries all waiting pods in one pure cycle and binds the results side by side. A placed
//! pod counts as assumed until the cache shows it bound.

pub mod cycle;
pub mod framework;
pub mod plugins;
pub mod queue;
pub mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
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
use framework::{Framework, Refusal, Wake};
use queue::Queue;
use snapshot::{PodInfo, Snapshot};

/// Pods decided in one cycle.
const BATCH_PODS: usize = 4096;
/// Binds and status writes in flight; they share the store's group commits.
const WRITES_IN_FLIGHT: usize = 128;
/// Pods with this `schedulerName` are ours.
const NAME: &str = "default-scheduler";

/// Where notices about pods go; must not block.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// The scheduler; [`Scheduler::run`] is its loop.
pub struct Scheduler {
    client: Client,
    clock: SharedClock,
    framework: Framework,
    tell: Tell,
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
    /// The pods in the queue as last seen: for notices and conditions.
    pending: HashMap<String, Arc<dyn AnyObject>>,
}

impl Scheduler {
    /// Listens to `cache`, which must keep Nodes and Pods (and should be filled after this call).
    pub fn new(client: Client, cache: &Cache, clock: SharedClock, tell: Tell) -> Scheduler {
        let state = Arc::new(Mutex::new(State::default()));
        let wake = Arc::new(Notify::new());
        let (heard, woken) = (state.clone(), wake.clone());
        cache.listen(Box::new(move |change| {
            if heard.lock().take_in(change) {
                woken.notify_one();
            }
        }));
        let framework = plugins::default_framework();
        Scheduler { client, clock, framework, tell, state, wake }
    }

    /// Schedules until it is dropped.
    pub async fn run(&self) {
        loop {
            let woken = self.wake.notified();
            let (decisions, next) = self.decide();
            if decisions.is_empty() {
                let idle = queue::RETRY_ANYWAY;
                let wait = next.map_or(idle, |at| at.duration_since(self.clock.now()));
                let wait =
                    Duration::try_from(wait).unwrap_or_default().max(Duration::from_millis(1));
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

    /// One pure cycle over what waits; also tells when the next refused pod comes.
    fn decide(&self) -> (Vec<Decision>, Option<Timestamp>) {
        let mut state = self.state.lock();
        let next = state.queue.advance(self.clock.now());
        let pods = state.queue.take(BATCH_PODS);
        (cycle::schedule(pods, &mut state.snapshot, &self.framework), next)
    }

    async fn perform(&self, decision: Decision) {
        match decision {
            Decision::Bind { pod, node } => {
                let seen = self.state.lock().pending.get(&pod.uid).cloned();
                match self.bind(&pod, &node).await {
                    Ok(()) => self.tell_bound(&pod, &node, seen),
                    Err(error) => self.bind_failed(pod, &node, &error),
                }
            }
            Decision::Refuse { pod, refusal } => self.refuse(pod, refusal).await,
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

    fn tell_bound(&self, pod: &PodInfo, node: &str, seen: Option<Arc<dyn AnyObject>>) {
        if let Some(seen) = seen {
            let message = format!("Successfully assigned {} to {node}", pod.key);
            (self.tell)(Notice::normal(&*seen, "Scheduled", message));
        }
    }

    /// Takes the assumption back; the pod comes again after a back-off unless it is gone.
    fn bind_failed(&self, pod: PodInfo, node: &str, error: &ApiError) {
        tracing::debug!(pod = %pod.key, node, %error, "binding failed");
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.snapshot.forget(&pod.uid);
        if let Some(created) = state.created(&pod.uid)
            && !error.is_not_found()
        {
            state.queue.refuse(pod, created, Vec::new(), now);
        }
    }

    async fn refuse(&self, pod: PodInfo, refusal: Refusal) {
        let message = refusal.message();
        let pending = {
            let mut state = self.state.lock();
            let Some(created) = state.created(&pod.uid) else { return };
            let now = self.clock.now();
            state.queue.refuse(pod.clone(), created, refusal.wakes, now);
            state.pending.get(&pod.uid).cloned()
        };
        let Some(pending) = pending else { return };
        (self.tell)(Notice::warning(&*pending, "FailedScheduling", message.clone()));
        if has_condition(&*pending, &message) {
            return;
        }
        let now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
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
    fn created(&self, uid: &str) -> Option<Timestamp> {
        let pod = self.pending.get(uid)?;
        Some(pod.meta().creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
    }

    /// Takes a change in; answers whether the loop should look.
    fn take_in(&mut self, change: &Changed) -> bool {
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
        if self.snapshot.is_placed(&uid) {
            return false;
        }
        let created =
            pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        self.queue.put(PodInfo::of(pod), created);
        self.pending.insert(uid, shared.clone());
        true
    }
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
