//! The node's loop, as far as static pods go: which of them begins, runs or ends, beside the pods
//! of the API, of which none may have the same name at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::range;
use crate::api::ObjectKey;
use crate::api::kinds::static_pod;
use crate::client::event::Notice;
use crate::node::inbox::Desired;
use crate::node::manager::Manager;
use crate::node::pod_state::{plus, spec};
use crate::node::pods::Object;

/// How long static pods wait for the API when the agent starts: with it, they keep their addresses
/// and the counts of their restarts.
const PATIENCE: Duration = Duration::from_secs(5);

/// The static pods that have a worker.
#[derive(Default)]
pub struct Statics {
    running: BTreeMap<ObjectKey, Running>,
    /// Those that were told to wait for a pod of the API.
    waiting: BTreeSet<ObjectKey>,
}

struct Running {
    pod: Arc<Pod>,
    is_ending: bool,
}

/// What is to be done under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// It is a pod of the API's.
    Api,
    Begin,
    Keep,
    End,
}

/// By the uid of the pod that the folder wants, and what runs: its uid where it is a static pod.
fn work(wanted: Option<&str>, runs: Option<Option<&str>>) -> Work {
    match (wanted, runs) {
        (Some(wanted), Some(Some(runs))) if wanted == runs => Work::Keep,
        // Another one waits until it has ended.
        (_, Some(Some(_))) => Work::End,
        (Some(_), None) => Work::Begin,
        (Some(_), Some(None)) | (None, _) => Work::Api,
    }
}

impl Manager {
    /// Until the API's pods are known; while it is away, static pods do not wait for it for long.
    pub(in crate::node) async fn wait_for_pods(&mut self) {
        self.node.static_pods.read_once().await;
        let cache = self.cache.clone();
        let known = cache.wait_synced();
        if self.node.static_pods.wanted().is_empty() {
            known.await;
            self.is_synced = true;
        } else {
            let patience = self.node.clock.sleep(PATIENCE);
            tokio::select! {
                () = known => self.is_synced = true,
                () = patience => {
                    tracing::warn!("the API is away; static pods run without it");
                    range::recall(&self.node);
                }
            }
        }
    }

    /// Does what the folder wants under a name. Answers whether that is all that there is to do.
    pub(in crate::node) fn sync_static(&mut self, key: &ObjectKey) -> bool {
        let wanted = self.node.static_pods.wanted().get(key).cloned();
        let view = self.cache.view();
        let object = view.get_key::<Pod>(key).filter(|_| self.is_synced).cloned();
        drop(view);
        let running = self.statics.running.get(key);
        let runs = match running {
            Some(running) => Some(running.pod.metadata.uid.as_deref()),
            None => self.by_key.get(key).map(|_| None),
        };
        let uid = wanted.as_ref().and_then(|pod| pod.metadata.uid.as_deref());
        let work = work(uid, runs);
        if work == Work::Api && wanted.is_some() {
            self.tell_to_wait(key);
        } else {
            self.statics.waiting.remove(key);
        }
        match work {
            Work::Begin => {
                if let Some(pod) = wanted {
                    self.begin_static(key, pod, object.as_ref());
                }
            }
            Work::End => self.end_static(key),
            Work::Keep | Work::Api => {}
        }
        let pod = self.statics.running.get(key).map(|running| &running.pod);
        self.node.static_pods.mirrors.set(key, pod, object.as_ref(), self.node.clock.now());
        work != Work::Api
    }

    /// Once, until it has the name.
    fn tell_to_wait(&mut self, key: &ObjectKey) {
        if self.statics.waiting.insert(key.clone()) {
            tracing::warn!(pod = %key, "a static pod waits for the pod of the API with its name");
            let text =
                format!("The static pod {key} waits for the pod of that name in the API to end");
            let about = super::node_object(&self.node);
            self.node.tell(Notice::warning(&about, "FailedStaticPod", text));
        }
    }

    /// What is known of the pod is in its mirror, if that is still of it.
    fn begin_static(&mut self, key: &ObjectKey, mut pod: Arc<Pod>, object: Option<&Arc<Pod>>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let mirror = object.filter(|object| static_pod::mirrors(object) == Some(&*uid));
        if let Some(mirror) = mirror.filter(|mirror| mirror.status.is_some()) {
            Arc::make_mut(&mut pod).status.clone_from(&mirror.status);
        }
        let running = Running { pod: pod.clone(), is_ending: false };
        self.statics.running.insert(key.clone(), running);
        // Before the worker tells its status.
        self.node.static_pods.mirrors.set(key, Some(&pod), object, self.node.clock.now());
        self.begin(key.clone(), uid, Object::new(pod, None));
    }

    /// As if somebody had deleted it, with its own grace period.
    fn end_static(&mut self, key: &ObjectKey) {
        let Some(running) = self.statics.running.get_mut(key).filter(|one| !one.is_ending) else {
            return;
        };
        running.is_ending = true;
        let mut pod = Pod::clone(&running.pod);
        let grace = spec(&pod).termination_grace_period_seconds.unwrap_or_default();
        let until = plus(self.node.clock.now(), Duration::from_secs(grace.try_into().unwrap_or(0)));
        pod.metadata.deletion_timestamp = Some(Time(until));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        let worker = self.by_key.get(key).and_then(|uid| self.workers.get(uid));
        if let Some(worker) = worker {
            worker.inbox.desire(Desired::Pod(Object::new(Arc::new(pod), None)));
        }
    }

    /// The worker of a pod is done.
    pub(in crate::node) fn static_ended(&mut self, key: &ObjectKey, uid: &str) {
        if self
            .statics
            .running
            .get(key)
            .is_some_and(|one| one.pod.metadata.uid.as_deref() == Some(uid))
        {
            self.statics.running.remove(key);
        }
    }

    /// The names of all that the folder wants and that run.
    pub(in crate::node) fn static_keys(&self) -> Vec<ObjectKey> {
        let wanted = self.node.static_pods.wanted();
        wanted.keys().chain(self.statics.running.keys()).cloned().collect()
    }

    /// The uids of all static pods, whose directories stay.
    pub(in crate::node) fn static_uids(&self) -> Vec<String> {
        let wanted = self.node.static_pods.wanted();
        let running = self.statics.running.values().map(|running| &running.pod);
        wanted.values().chain(running).filter_map(|pod| pod.metadata.uid.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pod_under_a_name_at_a_time() {
        assert_eq!(work(Some("a"), None), Work::Begin);
        assert_eq!(work(Some("a"), Some(Some("a"))), Work::Keep);
        assert_eq!(work(Some("b"), Some(Some("a"))), Work::End);
        assert_eq!(work(None, Some(Some("a"))), Work::End);
        assert_eq!(work(None, None), Work::Api);
        assert_eq!(work(None, Some(None)), Work::Api);
        // A pod of the API that came first keeps the name while it is there.
        assert_eq!(work(Some("a"), Some(None)), Work::Api);
    }
}
