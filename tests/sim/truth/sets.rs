//! What must hold of the StatefulSet `db` and the DaemonSet `agent` at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use wasmfleet::client::cache::{Changed, View};

use super::Truth;
use super::read::*;

/// What was wrong, on any change of a pod.
#[derive(Default)]
pub struct SetsSeen {
    violations: Mutex<Vec<String>>,
    /// The highest ordinal that may be there, and how many pods may be unavailable, while nobody but
    /// the controller takes pods away.
    pub bounds: Mutex<Option<Bounds>>,
    /// On how many nodes the DaemonSet must serve.
    pub least_daemons: Mutex<Option<usize>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replicas: usize,
    pub unavailable: usize,
}

impl SetsSeen {
    pub fn start(truth: &Truth) -> Arc<SetsSeen> {
        let seen = Arc::new(SetsSeen::default());
        let (weak, cache) = (Arc::downgrade(&seen), Arc::downgrade(&truth.cache));
        truth.cache.listen(Box::new(move |change| {
            if let (Some(seen), Some(cache)) = (weak.upgrade(), cache.upgrade()) {
                seen.look(change, &cache.view());
            }
        }));
        seen
    }

    fn look(&self, change: &Changed, view: &View) {
        if change.resource.resource != "pods" {
            return;
        }
        let mut wrong = Vec::new();
        let pods: Vec<_> = view.in_namespace::<Pod>("default").collect();
        // In order: no pod without its predecessor, as long as nobody else takes pods away.
        let ordinals: BTreeSet<usize> = pods.iter().filter_map(|pod| ordinal(pod)).collect();
        let created = change.old.is_none();
        if let (Some(bounds), true) = (*self.bounds.lock(), created) {
            let new = change.typed::<Pod>().1.and_then(ordinal);
            if new.is_some_and(|at| at >= bounds.replicas) {
                wrong.push(format!("ordinal {new:?} of {}", bounds.replicas));
            }
            // While it comes up nobody takes a predecessor's readiness away either.
            let comes_up = bounds.unavailable == bounds.replicas;
            let serves = |at: usize| {
                let name = format!("db-{at}");
                let good = |pod: &Pod| is_active(pod) && (!comes_up || is_ready(pod));
                pods.iter().any(|pod| name_of(&***pod) == name && good(pod))
            };
            if let Some(missing) = new.and_then(|new| (0..new).find(|at| !serves(*at))) {
                wrong.push(format!("{new:?} is created without {missing} of {ordinals:?}"));
            }
        }
        if let Some(bounds) = *self.bounds.lock() {
            let serving =
                pods.iter().filter(|pod| ordinal(pod).is_some() && is_active(pod) && is_ready(pod));
            let serving = serving.count();
            if serving + bounds.unavailable < bounds.replicas {
                wrong.push(format!("{serving} of {} serve", bounds.replicas));
            }
        }
        let daemons = |pod: &&&Arc<Pod>| is_daemon(pod) && is_active(pod) && is_ready(pod);
        let serving: BTreeSet<&str> = pods.iter().filter(daemons).map(|pod| node_of(pod)).collect();
        if let Some(least) = self.least_daemons.lock().filter(|least| serving.len() < *least) {
            wrong.push(format!("daemons serve on {} nodes, not {least}", serving.len()));
        }
        let mut on_node: BTreeMap<String, usize> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| is_daemon(pod) && is_active(pod)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            *on_node.entry(node.unwrap_or_default()).or_default() += 1;
        }
        on_node.remove("");
        if let Some((node, count)) = on_node.iter().find(|(_, count)| **count > 2) {
            wrong.push(format!("{count} daemon pods on {node}"));
        }
        let mut violations = self.violations.lock();
        if violations.len() < 10 {
            violations.extend(wrong);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub fn assert_kept(&self) {
        assert_eq!(self.violations(), Vec::<String>::new());
    }
}
