//! Mirrors: the Pods of the API by which static pods are seen. One task makes them, makes those
//! again that somebody deleted, removes those whose pod is gone or another one, and tells their
//! status. What to do is decided by the pure [`step`]; a lost race is seen at the next turn.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::api::kinds::static_pod;
use crate::api::{ApiError, ObjectKey};
use crate::client::DeleteOptions;
use crate::client::cache::Cache;
use crate::client::event::Notice;
use crate::node::Shared;
use crate::node::status::StatusWriter;

/// The wait after a failed write, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MOST_RETRY: Duration = Duration::from_secs(20);
/// From the deletion of a mirror until it is made again: who waits for the deletion (`kubectl
/// delete`) looks for a moment without it.
const ABSENCE: SignedDuration = SignedDuration::from_secs(1);

/// All static pods and mirrors of the node.
#[derive(Default)]
pub struct Mirrors {
    table: Mutex<BTreeMap<ObjectKey, Mirror>>,
    changed: Notify,
}

/// A static pod, its mirror, or both.
#[derive(Default)]
struct Mirror {
    /// What runs here.
    pod: Option<Arc<Pod>>,
    /// The Pod of that name in the API.
    object: Option<Arc<Pod>>,
    /// The newest, of `pod`.
    status: Option<Box<PodStatus>>,
    /// `status` or `object` changed since the status was given to be written.
    is_news: bool,
    /// It was deleted, and is not made again before.
    absent_until: Option<Timestamp>,
    failure: Option<Failure>,
}

/// A write that failed.
struct Failure {
    wait: Duration,
    until: Timestamp,
    told: String,
}

/// What one mirror needs now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Create,
    /// It is of no pod, or of another one than runs here, or is being deleted.
    Delete,
    /// It is there: its status is told.
    Tell,
    /// Another Pod has the name.
    Taken,
    /// Nothing is left of both.
    Forget,
}

/// See [`Step`]. Pure.
pub fn step(pod: Option<&Pod>, object: Option<&Pod>) -> Step {
    match (pod, object) {
        (None, None) => Step::Forget,
        (Some(_), None) => Step::Create,
        (pod, Some(object)) => match (pod, static_pod::mirrors(object)) {
            (None, None) => Step::Forget,
            (Some(_), None) => Step::Taken,
            (Some(pod), Some(hash))
                if pod.metadata.uid.as_deref() == Some(hash)
                    && object.metadata.deletion_timestamp.is_none() =>
            {
                Step::Tell
            }
            (_, Some(_)) => Step::Delete,
        },
    }
}

/// The mirror of a static pod. Its Node owns it, and the garbage collector removes it with that.
pub fn mirror_of(pod: &Pod, node: &NodeObject) -> Pod {
    let of = &pod.metadata;
    let mut annotations = of.annotations.clone().unwrap_or_default();
    annotations.insert(static_pod::MIRROR.into(), of.uid.clone().unwrap_or_default());
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Pod {
        metadata: ObjectMeta {
            name: of.name.clone(),
            namespace: of.namespace.clone(),
            labels: of.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

impl Mirrors {
    /// Tells what runs here and what the API has under a name.
    pub fn set(
        &self,
        key: &ObjectKey,
        pod: Option<&Arc<Pod>>,
        object: Option<&Arc<Pod>>,
        now: Timestamp,
    ) {
        let mut table = self.table.lock();
        let is_mirror = object.is_some_and(|object| static_pod::mirrors(object).is_some());
        if pod.is_none() && !is_mirror && !table.contains_key(key) {
            return;
        }
        let one = table.entry(key.clone()).or_default();
        if uid(pod) != uid(one.pod.as_ref()) {
            one.status = None;
            one.failure = None;
            one.absent_until = None;
        }
        if object.is_some() && uid(object) != uid(one.object.as_ref()) {
            one.failure = None;
        }
        one.pod = pod.cloned();
        one.replace(object.cloned(), now);
        drop(table);
        self.changed.notify_one();
    }

    /// The newest status of a static pod.
    pub fn submit(&self, pod: &Pod, status: PodStatus) {
        let mut table = self.table.lock();
        let Some(one) = table.get_mut(&ObjectKey::of(&pod.metadata)) else { return };
        let is_same = one.status.as_deref() == Some(&status);
        // The worker of the pod before this one may be ending still.
        if is_same || one.pod.as_ref().is_none_or(|of| of.metadata.uid != pod.metadata.uid) {
            return;
        }
        (one.status, one.is_news) = (Some(Box::new(status)), true);
        drop(table);
        self.changed.notify_one();
    }

    /// Takes over the answer to a write; the watch has the last word.
    fn answered(&self, key: &ObjectKey, object: Option<Arc<Pod>>, now: Timestamp) {
        if let Some(one) = self.table.lock().get_mut(key) {
            if object.as_ref().is_none_or(|object| static_pod::mirrors(object).is_some()) {
                one.failure = None;
            }
            one.replace(object, now);
        }
    }

    /// Notes a failure; answers whether it is another one than before.
    fn failed(&self, key: &ObjectKey, message: &str, now: Timestamp) -> bool {
        let mut table = self.table.lock();
        let Some(one) = table.get_mut(key) else { return false };
        let before = one.failure.take();
        let wait = before.as_ref().map_or(FIRST_RETRY, |f| (f.wait * 2).min(MOST_RETRY));
        let until = now + SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO);
        one.failure = Some(Failure { wait, until, told: message.to_string() });
        before.is_none_or(|before| before.told != message)
    }
}

impl Mirror {
    fn replace(&mut self, object: Option<Arc<Pod>>, now: Timestamp) {
        let before = self.object.as_deref().and_then(static_pod::mirrors);
        if object.is_none() && before.is_some() && before == uid(self.pod.as_ref()) {
            self.absent_until = now.checked_add(ABSENCE).ok();
        }
        (self.object, self.is_news) = (object, true);
    }
}

fn uid(pod: Option<&Arc<Pod>>) -> Option<&str> {
    pod?.metadata.uid.as_deref()
}

/// What a turn does for one name.
struct Turn {
    key: ObjectKey,
    step: Step,
    pod: Option<Arc<Pod>>,
    object: Option<Arc<Pod>>,
    /// To be told.
    status: Option<Box<PodStatus>>,
}

/// What is to be done now, and when to look again.
fn turns(mirrors: &Mirrors, now: Timestamp) -> (Vec<Turn>, Option<Timestamp>) {
    let (mut turns, mut next) = (Vec::new(), None::<Timestamp>);
    for (key, one) in &mut *mirrors.table.lock() {
        let step = step(one.pod.as_deref(), one.object.as_deref());
        if step == Step::Tell && !std::mem::take(&mut one.is_news) {
            continue;
        }
        let failed = one.failure.as_ref().map(|failure| failure.until);
        let absent = one.absent_until.filter(|_| step == Step::Create);
        let until = failed.max(absent).filter(|until| *until > now && step != Step::Tell);
        if let Some(until) = until {
            next = Some(next.map_or(until, |next| next.min(until)));
            continue;
        }
        turns.push(Turn {
            key: key.clone(),
            pod: one.pod.clone(),
            object: one.object.clone(),
            status: one.status.clone().filter(|_| step == Step::Tell),
            step,
        });
    }
    (turns, next)
}

/// Keeps all mirrors as they should be.
pub async fn keep_mirrors(node: Arc<Shared>, cache: Arc<Cache>) {
    node.static_pods.read_once().await;
    cache.wait_synced().await;
    // Of each mirror that is there, by name and with its uid.
    let mut writers: HashMap<ObjectKey, (Option<String>, StatusWriter)> = HashMap::new();
    let mirrors = &node.static_pods.mirrors;
    loop {
        let (turns, next) = turns(mirrors, node.clock.now());
        let is_done = turns.is_empty();
        for turn in turns {
            if turn.step == Step::Tell {
                tell(&node, &mut writers, turn);
                continue;
            }
            writers.remove(&turn.key);
            if let Err(error) = perform(&node, &turn).await {
                complain(&node, &turn, &error);
            }
        }
        if is_done {
            let wait = next.map(|at| at.duration_since(node.clock.now()));
            let wait = wait.map(|wait| Duration::try_from(wait).unwrap_or(Duration::ZERO));
            let sleep = match wait {
                Some(wait) => Either::Left(node.clock.sleep(wait)),
                None => Either::Right(std::future::pending()),
            };
            tokio::select! {
                () = mirrors.changed.notified() => {}
                () = sleep => {}
            }
        }
    }
}

/// Gives the status to the writer of the mirror, as of any other pod.
fn tell(
    node: &Arc<Shared>,
    writers: &mut HashMap<ObjectKey, (Option<String>, StatusWriter)>,
    turn: Turn,
) {
    let Some(object) = turn.object else { return };
    let uid = object.metadata.uid.clone();
    if writers.get(&turn.key).is_none_or(|(of, _)| *of != uid) {
        let writer = StatusWriter::new(node.clone(), object.clone());
        writers.insert(turn.key.clone(), (uid, writer));
    }
    if let Some((_, writer)) = writers.get(&turn.key) {
        writer.observe(&object);
        if let Some(status) = turn.status {
            writer.submit(*status);
        }
    }
}

async fn perform(node: &Shared, turn: &Turn) -> Result<(), ApiError> {
    let mirrors = &node.static_pods.mirrors;
    match (&turn.step, &turn.pod, &turn.object) {
        (Step::Forget, ..) => {
            let mut table = mirrors.table.lock();
            // Something may have come meanwhile.
            if table.get(&turn.key).is_some_and(|one| one.pod.is_none() && one.object.is_none()) {
                table.remove(&turn.key);
            } else if let Some(one) = table.get_mut(&turn.key)
                && one.pod.is_none()
            {
                one.object = one.object.take().filter(|o| static_pod::mirrors(o).is_some());
            }
        }
        (Step::Create, Some(pod), _) => {
            let found = create(node, pod).await?;
            mirrors.answered(&turn.key, Some(Arc::new(found)), node.clock.now());
        }
        (Step::Delete, _, Some(object)) => {
            delete(node, object).await?;
            mirrors.answered(&turn.key, None, node.clock.now());
        }
        _ => {
            let text = "a pod of that name is in the API that is not its mirror";
            return Err(ApiError::unavailable(text));
        }
    }
    Ok(())
}

/// The new mirror, or what else has its name.
async fn create(node: &Shared, pod: &Pod) -> Result<Pod, ApiError> {
    let owner = node.client.get::<NodeObject>("", &node.options.name).await;
    // It is registered side by side with this.
    let owner = owner.map_err(|error| ApiError::unavailable(error.message))?;
    if owner.metadata.deletion_timestamp.is_some() {
        return Err(ApiError::unavailable("the Node is being deleted"));
    }
    match node.client.create(&mirror_of(pod, &owner)).await {
        Err(error) if error.is_already_exists() => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
            let found = node.client.get::<Pod>(&namespace, &name).await?;
            match step(Some(pod), Some(&found)) {
                Step::Delete => Err(ApiError::unavailable("the mirror before it is not gone yet")),
                _ => Ok(found),
            }
        }
        other => other,
    }
}

async fn delete(node: &Shared, object: &Pod) -> Result<(), ApiError> {
    let meta = &object.metadata;
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: meta.uid.clone(),
        ..DeleteOptions::default()
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&meta.namespace), text(&meta.name));
    match node.client.delete::<Pod>(&namespace, &name, &options).await {
        // It is gone, or another one has its name.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other,
    }
}

/// Notes a failure, and tells the first of its kind where it is about the pod.
fn complain(node: &Shared, turn: &Turn, error: &ApiError) {
    let is_new = node.static_pods.mirrors.failed(&turn.key, &error.message, node.clock.now());
    let (key, message) = (&turn.key, &error.message);
    tracing::debug!(pod = %key, message, "a mirror was not written");
    let is_refused = turn.step == Step::Taken || (400..500).contains(&error.code);
    if !is_new || !is_refused {
        return;
    }
    tracing::warn!(pod = %key, message, "the API has no mirror of a static pod");
    let text = format!("The static pod {key} runs, but the API has no mirror of it: {message}");
    node.tell(Notice::warning(&super::node_object(node), "FailedMirrorPod", text));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str) -> Pod {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-n1", "namespace": "default", "uid": uid, "labels": {"a": "b"},
                "annotations": {static_pod::HASH: uid, "own": "x"}},
            "spec": {"containers": [{"name": "c"}], "nodeName": "n1"}});
        serde_json::from_value(pod).expect("a pod")
    }

    fn node() -> NodeObject {
        let node = json!({"metadata": {"name": "n1", "uid": "node-uid"}});
        serde_json::from_value(node).expect("a node")
    }

    #[test]
    fn what_a_mirror_needs() {
        let (one, other) = (pod("one"), pod("other"));
        let mirror = mirror_of(&one, &node());
        assert_eq!(step(None, None), Step::Forget);
        assert_eq!(step(Some(&one), None), Step::Create);
        assert_eq!(step(Some(&one), Some(&mirror)), Step::Tell);
        assert_eq!(step(Some(&other), Some(&mirror)), Step::Delete);
        assert_eq!(step(None, Some(&mirror)), Step::Delete);
        let mut doomed = mirror.clone();
        let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
        doomed.metadata.deletion_timestamp = Some(at);
        assert_eq!(step(Some(&one), Some(&doomed)), Step::Delete);
        let mut foreign = mirror;
        foreign.metadata.annotations = None;
        assert_eq!(step(Some(&one), Some(&foreign)), Step::Taken);
        assert_eq!(step(None, Some(&foreign)), Step::Forget);
    }

    #[test]
    fn a_mirror_is_the_pod_and_belongs_to_its_node() {
        let mirror = mirror_of(&pod("one"), &node());
        assert_eq!(static_pod::mirrors(&mirror), Some("one"));
        let meta = &mirror.metadata;
        assert_eq!((meta.uid.as_ref(), meta.labels.clone()), (None, pod("one").metadata.labels));
        assert_eq!(meta.annotations.as_ref().expect("some")["own"], "x");
        let owner = &meta.owner_references.as_ref().expect("an owner")[0];
        let of = (owner.kind.as_str(), owner.uid.as_str(), owner.controller);
        assert_eq!(of, ("Node", "node-uid", Some(true)));
        assert_eq!(mirror.spec, pod("one").spec);
    }

    #[test]
    fn failures_wait_and_are_told_once() {
        let mirrors = Mirrors::default();
        let (key, one) = (ObjectKey::new("default", "web-n1"), Arc::new(pod("one")));
        let now = Timestamp::UNIX_EPOCH;
        mirrors.set(&key, Some(&one), None, now);
        let (now_due, next) = turns(&mirrors, now);
        assert_eq!((now_due[0].step.clone(), next), (Step::Create, None));
        assert!(mirrors.failed(&key, "no", now));
        let (due, next) = turns(&mirrors, now);
        assert!(due.is_empty());
        let next = next.expect("another try");
        assert_eq!(turns(&mirrors, next).0.len(), 1);
        assert!(!mirrors.failed(&key, "no", next));
        assert!(mirrors.failed(&key, "other", next));
        // Another mirror is another chance.
        let mirror = Arc::new(mirror_of(&one, &node()));
        mirrors.set(&key, Some(&one), Some(&mirror), next);
        mirrors.submit(&one, PodStatus::default());
        let due = turns(&mirrors, next).0;
        assert!(due[0].step == Step::Tell && due[0].status.is_some());
        assert!(turns(&mirrors, next).0.is_empty(), "told");
    }

    #[test]
    fn a_mirror_that_was_deleted_is_missed_for_a_moment() {
        let mirrors = Mirrors::default();
        let (key, one) = (ObjectKey::new("default", "web-n1"), Arc::new(pod("one")));
        let (now, mirror) = (Timestamp::UNIX_EPOCH, Arc::new(mirror_of(&one, &node())));
        mirrors.set(&key, Some(&one), Some(&mirror), now);
        mirrors.set(&key, Some(&one), None, now);
        let (due, next) = turns(&mirrors, now);
        assert!(due.is_empty());
        let due = turns(&mirrors, next.expect("a time")).0;
        assert_eq!(due[0].step, Step::Create);
        // That of another pod makes way for its own at once.
        let other = Arc::new(pod("other"));
        mirrors.set(&key, Some(&other), Some(&mirror), now);
        mirrors.set(&key, Some(&other), None, now);
        assert_eq!(turns(&mirrors, now).0[0].step, Step::Create);
    }
}
