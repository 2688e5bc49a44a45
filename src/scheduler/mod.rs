//! Gives pods their nodes. Changes of the cache go into the snapshot and the queue as they come;
//! the loop tries all waiting pods in one pure cycle and binds the results side by side. A placed
//! pod counts as assumed until the cache shows it bound; a refused one waits in the queue from the
//! moment of the decision, so that no change falls between the two.
//!
//! ```text
//!   waiting ─▶ filters, scores ─▶ bound
//!                 └─ nobody takes it ─▶ refused ─▶ waiting, after a change that may help
//!                                         └─ pods of lower priority leave for it: a nominee, to
//!                                            whom their node is kept
//! ```

pub mod advice;
pub mod budgets;
pub mod changes;
pub mod class;
pub mod config;
pub mod cycle;
mod evictions;
pub mod framework;
pub mod gangs;
pub mod groups;
pub mod nominees;
pub mod plugins;
pub mod pod_info;
pub mod preemption;
pub mod profiles;
pub mod queue;
pub mod resources;
pub mod slots;
pub mod snapshot;
mod state;
pub mod topology;
pub mod volumes;
mod volumes_write;
pub mod why;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::api::kinds::binders::{BINDER, SEEN_PODS};
use crate::api::resource::Gvr;
use crate::api::{ApiError, Object, ObjectKey};
use crate::base::SharedClock;
use crate::base::backoff::Limits;
use crate::client::cache::Cache;
use crate::client::event::{Notice, Severity};
use crate::client::{Client, Patch, Target, WriteOptions};
use cycle::Decision;
use framework::Refusal;
use pod_info::PodInfo;
use profiles::Profiles;
use state::{Pending, State};
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
/// The `schedulerName` of pods that name none.
const NAME: &str = "default-scheduler";

/// Where notices about pods go, with the name of the profile that tells them; must not block.
pub type Tell = Arc<dyn Fn(&str, Notice) + Send + Sync>;

/// How the scheduler behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// A refused pod is tried again after this time even if nothing happened: a lost signal costs
    /// time only.
    pub retry_anyway: Duration,
    /// The wait of a refused pod after a change that may help it.
    pub back_off: Limits,
    pub profiles: Arc<Profiles>,
    /// Differs from scheduler to scheduler: by this one's bindings it is told from others.
    pub id: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            retry_anyway: Duration::from_secs(300),
            back_off: queue::LIMITS,
            profiles: Arc::default(),
            id: NAME.into(),
        }
    }
}

/// The scheduler; [`Scheduler::run`] is its loop.
pub struct Scheduler {
    client: Client,
    clock: SharedClock,
    tell: Tell,
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
    options: Options,
}

impl Scheduler {
    /// Listens to `cache`, which must keep Nodes, Pods, Namespaces, claims, volumes, storage classes,
    /// PodDisruptionBudgets, Services and what controls pods (and should be filled after this call).
    pub fn new(
        client: Client,
        cache: &Arc<Cache>,
        clock: SharedClock,
        tell: Tell,
        options: Options,
    ) -> Scheduler {
        let state = Arc::new(Mutex::new(State::new(&options)));
        let wake = Arc::new(Notify::new());
        let (heard, woken, time) = (state.clone(), wake.clone(), clock.clone());
        cache.listen(Box::new(move |change| {
            let take_in = AssertUnwindSafe(|| heard.lock().take_in(change, time.now()));
            match std::panic::catch_unwind(take_in) {
                Ok(false) => {}
                Ok(true) => woken.notify_one(),
                // The cache's own task must go on.
                Err(_) => {
                    tracing::error!(key = %change.key, "the scheduler panicked over a change")
                }
            }
        }));
        let (seeing, seen) = (Arc::downgrade(cache), state.clone());
        cache.listen_progress(Box::new(move |resource| {
            if *resource != Gvr::of::<Pod>() {
                return;
            }
            if let Some(cache) = seeing.upgrade() {
                let revision = cache.view().revision(resource);
                seen.lock().seen = revision;
            }
        }));
        Scheduler { client, clock, tell, state, wake, options }
    }

    /// Answers why pods are where they are.
    pub fn explainer(&self) -> why::Explainer {
        why::Explainer::new(self.state.clone())
    }

    /// Schedules until it is dropped.
    pub async fn run(&self) {
        self.run_after(|| std::future::ready(())).await;
    }

    /// [`Scheduler::run`] that waits for something before each cycle: until it leads, for instance.
    /// What a cycle decided is performed, or taken back, before the next wait.
    pub async fn run_after<F: Future<Output = ()> + Send>(&self, before: impl Fn() -> F) {
        loop {
            let woken = self.wake.notified();
            before().await;
            let (decisions, seen, next) = self.decide();
            if decisions.is_empty() {
                let until = |at: Timestamp| at.duration_since(self.clock.now());
                let wait = next.map(|at| Duration::try_from(until(at)).unwrap_or_default());
                let wait = wait.unwrap_or(self.options.retry_anyway).max(Duration::from_millis(1));
                tokio::select! {
                    biased;
                    () = woken => {}
                    () = self.clock.sleep(wait) => {}
                }
                continue;
            }
            futures::stream::iter(decisions)
                .for_each_concurrent(WRITES_IN_FLIGHT, |decision| self.perform(decision, seen))
                .await;
        }
    }

    /// One pure cycle over what waits. Refused pods are back in the queue before the lock is let go:
    /// a change that comes next finds them there. Also tells as of which revision of Pods that was
    /// decided, and when the next refused pod comes.
    fn decide(&self) -> (Vec<Decision>, u64, Option<Timestamp>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.queue.advance(now);
        let mut pods = state.queue.take(BATCH_PODS);
        state.set_together(&mut pods);
        let State { snapshot, classes, profiles, .. } = &mut *state;
        let mut decisions = cycle::schedule_with(pods, snapshot, &**profiles, classes);
        for decision in &decisions {
            match decision {
                Decision::Bind { .. } => {}
                Decision::Provide { pod, steps, .. } => state.expect(pod.clone(), steps, now),
                Decision::Hold { pod, wakes } => state.hold(pod.clone(), wakes.clone(), now),
                Decision::Refuse { pod, refusal, .. } => {
                    state.put_aside(pod.clone(), refusal.wakes.clone(), now);
                }
                Decision::Preempt { pod, refusal, preemption } => {
                    state.put_aside(pod.clone(), refusal.wakes.clone(), now);
                    // They find another node sooner than by waiting for this one.
                    preemption.displaced.iter().for_each(|one| state.queue.hurry(&one.uid, now));
                }
                Decision::PreemptForGang(preemption) => {
                    for member in &preemption.members {
                        let wakes = member.refusal.wakes.clone();
                        state.put_aside(member.pod.clone(), wakes, now);
                    }
                    preemption.displaced.iter().for_each(|one| state.queue.hurry(&one.uid, now));
                }
                Decision::Later { pod } => state.put_back(pod.clone()),
                Decision::Fail { pod, .. } => state.put_aside(pod.clone(), Vec::new(), now),
            }
        }
        state.wake_freed(now);
        // They are where they wait already.
        let nodes = state.snapshot.nodes().len();
        decisions.extend(state.take_untold().into_iter().map(|(pod, why)| {
            let refusal = Refusal { nodes, whole: Some(why), ..Refusal::default() };
            Decision::Refuse { pod, refusal, ends_nomination: false }
        }));
        (decisions, state.seen, state.queue.next_at())
    }

    async fn perform(&self, decision: Decision, seen_pods: u64) {
        match decision {
            Decision::Bind { pod, node } => {
                let seen = self.state.lock().pending.get(&pod.uid).cloned();
                let bound = match self.bind(&pod, &node, seen_pods).await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::debug!(pod = %pod.key, node, %error, "binding failed");
                        !error.is_not_found() && self.is_bound(&pod, &node).await
                    }
                };
                if bound { self.tell_bound(&pod, &node, seen) } else { self.take_back(&pod, &node) }
            }
            Decision::Provide { pod, node, steps } => {
                self.tell_provided(&pod, &node, &steps).await;
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
            Decision::Refuse { pod, refusal, ends_nomination } => {
                let nomination = if ends_nomination { Some(None) } else { None };
                self.tell_refused(&pod, "Unschedulable", refusal.told(), nomination).await;
            }
            Decision::Preempt { pod, refusal, preemption } => {
                self.preempt(&pod, refusal.message(), &preemption).await;
            }
            Decision::PreemptForGang(preemption) => self.preempt_for_gang(&preemption).await,
            Decision::Later { .. } | Decision::Hold { .. } => {}
            Decision::Fail { pod, text } => {
                self.tell_refused(&pod, "SchedulerError", text, None).await;
            }
        }
    }

    /// Binds, unless another scheduler gave the node pods of which this one did not know when it
    /// decided.
    async fn bind(&self, pod: &PodInfo, node: &str, seen_pods: u64) -> Result<(), ApiError> {
        let key = &pod.key;
        let target = Target::one::<Pod>(&key.namespace, &key.name).subresource("binding");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid,
                "annotations": {BINDER: self.options.id, SEEN_PODS: seen_pods.to_string()}},
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

    fn tell_bound(&self, pod: &PodInfo, node: &str, seen: Option<Pending>) {
        if let Some(seen) = seen {
            let message = format!("Successfully assigned {} to {node}", pod.key);
            let (regarding, severity) = (seen.reference(pod), Severity::Normal);
            let notice = Notice { regarding, severity, reason: "Scheduled".into(), message };
            (self.tell)(&pod.wants.scheduler, notice);
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
    /// it is gone. One of a gang keeps its place, and comes at once the first time.
    fn take_back(&self, pod: &PodInfo, node: &str) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.snapshot.forget(&pod.uid) {
            state.try_again(pod, now);
            state.keep_for_gang(pod, node, now);
            state.wake_freed(now);
        }
    }

    /// Tells that nobody takes a pod, and, where `nomination` is one, which node is being made free
    /// for it. Answers whether that is written.
    async fn tell_refused(
        &self,
        pod: &PodInfo,
        reason: &str,
        message: String,
        nomination: Option<Option<&str>>,
    ) -> bool {
        let Some(pending) = self.state.lock().pending.get(&pod.uid).cloned() else { return false };
        let notice = Notice {
            regarding: pending.reference(pod),
            severity: Severity::Warning,
            reason: "FailedScheduling".into(),
            message: message.clone(),
        };
        (self.tell)(&pod.wants.scheduler, notice);
        let mut status = serde_json::Map::new();
        if !pending.tells(&message) {
            status.insert("conditions".into(), self.waits(reason, &message));
        }
        if let Some(node) = nomination {
            status.insert("nominatedNodeName".into(), json!(node));
        }
        if status.is_empty() {
            return true;
        }
        match self.patch_status(&pod.key, &pod.uid, Value::Object(status)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(pod = %pod.key, %error, "the refusal was not written");
                false
            }
        }
    }

    /// Tells that a pod waits for the volumes of its claims: where its status says something else that
    /// it waited for, and where they were to be made before, and were not.
    async fn tell_provided(&self, pod: &PodInfo, node: &str, steps: &[Step]) {
        let Some(pending) = self.state.lock().pending.get(&pod.uid).cloned() else { return };
        let is_again = pending.chosen > 1 && !steps.is_empty();
        let mut message = format!("waiting for the volumes of the pod's claims on node {node}");
        if is_again {
            message.push_str("; they were asked for before, in vain (wasmctl describe pvc)");
            self.tell_refused(pod, "Unschedulable", message, None).await;
        } else if pending.tells_any() && !pending.tells(&message) {
            let status = json!({"conditions": self.waits("Unschedulable", &message)});
            if let Err(error) = self.patch_status(&pod.key, &pod.uid, status).await {
                tracing::debug!(pod = %pod.key, %error, "what it waits for was not written");
            }
        }
    }

    /// The conditions of a pod that waits.
    fn waits(&self, reason: &str, message: &str) -> Value {
        json!([{"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": self.now()}])
    }

    /// Now, as statuses have it.
    fn now(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    async fn patch_status(
        &self,
        key: &ObjectKey,
        uid: &str,
        status: Value,
    ) -> Result<(), ApiError> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
        let target = Target::one::<Pod>(&key.namespace, &key.name).subresource("status");
        let options = WriteOptions { field_manager: NAME.into(), ..WriteOptions::default() };
        self.client.api.patch(&target, patch, &options).await.map(drop)
    }
}
