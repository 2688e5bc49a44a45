//! Which Secrets, ConfigMaps, claims and volumes each node's agent may read: those that a Pod bound to
//! the node refers to, volumes through the claim that they are for, and the volumes that were made
//! on the node (upstream's Node authorizer, plugin/pkg/auth/authorizer/node/graph.go).
//!
//! Kept from the commits of this server, in step with the store: what a Pod refers to is known
//! before its node can see it. A Pod is looked into once, when it is bound, since nothing that it
//! refers to changes afterwards; so the updates of its status cost one look into a map.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{PersistentVolume, PodSpec};
use parking_lot::Mutex;
use serde::Deserialize;

pub use crate::api::kinds::pod_references::Referent;
use crate::api::kinds::{pod_references, storage};
use crate::store::{Expect, Key, Op, ReadError, SharedStore};

/// How many Pods are read at once when the graph is filled.
const PAGE: usize = 500;

static PODS: LazyLock<Key> = LazyLock::new(|| Key::new(&["", "pods"]));

/// See the module's documentation.
#[derive(Default)]
pub struct NodeGraph(Mutex<Graph>);

#[derive(Default)]
struct Graph {
    /// Every bound Pod, by its key in the store.
    pods: HashMap<Key, Place>,
    /// How many Pods of a node refer to an object.
    counts: HashMap<Edge, usize>,
}

struct Place {
    bound: Arc<Bound>,
    /// False while the commit that binds the Pod is under way.
    committed: bool,
}

/// A Pod's node and what it refers to.
struct Bound(Vec<Edge>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Edge {
    node: Arc<str>,
    namespace: Arc<str>,
    kind: Referent,
    name: String,
}

/// What a commit may change; see [`NodeGraph::before`].
#[derive(Default)]
pub struct Pending {
    puts: Vec<(Key, Arc<Bound>)>,
    deletes: Vec<(Key, Arc<Bound>)>,
}

impl NodeGraph {
    /// Reads all stored Pods. For the time before the first request.
    pub fn fill(&self, store: &SharedStore) -> Result<(), ReadError> {
        let mut after: Option<Key> = None;
        loop {
            let page = store.list(&PODS, after.as_ref(), PAGE, None)?;
            for entry in &page.entries {
                if let Some(bound) = bound(&entry.key, &entry.value) {
                    self.0.lock().insert(entry.key.clone(), Arc::new(bound), true);
                }
            }
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Whether a Pod of the node refers to the object.
    pub fn refers(&self, node: &str, namespace: &str, kind: Referent, name: &str) -> bool {
        let name = name.to_string();
        let edge = Edge { node: node.into(), namespace: namespace.into(), kind, name };
        self.0.lock().counts.contains_key(&edge)
    }

    /// Whether a volume (as it is stored) was made on the node, or, unless `only_own`, is for a claim
    /// that a Pod of the node refers to.
    pub fn concerns(&self, node: &str, volume: &[u8], only_own: bool) -> bool {
        let Ok(volume) = serde_json::from_slice::<PersistentVolume>(volume) else { return false };
        if storage::local_node(&volume) == Some(node) {
            return true;
        }
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let claim = claim.filter(|_| !only_own);
        let claim = claim.and_then(|one| Some((one.namespace.as_deref()?, one.name.as_deref()?)));
        claim.is_some_and(|(space, name)| self.refers(node, space, Referent::Claim, name))
    }

    /// To be called with what is about to be committed, so that no node sees a Pod sooner than the
    /// graph; its answer goes to [`NodeGraph::after`].
    pub fn before(&self, ops: &[Op]) -> Pending {
        let mut pending = Pending::default();
        for op in ops {
            match op {
                Op::Put { key, value, expect } if key.starts_with(&PODS) => {
                    let known = self.0.lock().pods.get(key).map(Place::head);
                    let is_new = *expect == Expect::Absent;
                    if known.as_ref().is_some_and(|(_, committed)| *committed) && !is_new {
                        continue;
                    }
                    match bound(key, &value.bytes).map(Arc::new) {
                        Some(bound) => {
                            if known.is_none() {
                                self.0.lock().insert(key.clone(), bound.clone(), false);
                            }
                            pending.puts.push((key.clone(), bound));
                        }
                        // What is there is of a Pod of that name that is gone by then. What comes
                        // meanwhile is not: the new Pod is seen, and bound, before we are told.
                        None if is_new => {
                            let gone = known.map(|(bound, _)| (key.clone(), bound));
                            pending.deletes.extend(gone);
                        }
                        None => {}
                    }
                }
                Op::Delete { key, .. } if key.starts_with(&PODS) => {
                    let graph = self.0.lock();
                    let bound = graph.pods.get(key).map(|place| place.bound.clone());
                    pending.deletes.extend(bound.map(|bound| (key.clone(), bound)));
                }
                _ => {}
            }
        }
        pending
    }

    /// To be called when it was committed, or was not.
    pub fn after(&self, pending: Pending, committed: bool) {
        if pending.puts.is_empty() && pending.deletes.is_empty() {
            return;
        }
        let mut graph = self.0.lock();
        for (key, bound) in pending.puts {
            if committed {
                // Also where another commit, one that fails or a deletion, still has the place.
                graph.insert(key, bound, true);
            } else if graph.has(&key, &bound) {
                graph.remove(&key);
            }
        }
        for (key, bound) in pending.deletes.into_iter().filter(|_| committed) {
            // A Pod of the same name may be there by now.
            if graph.has(&key, &bound) {
                graph.remove(&key);
            }
        }
    }
}

impl Place {
    fn head(&self) -> (Arc<Bound>, bool) {
        (self.bound.clone(), self.committed)
    }
}

impl Graph {
    fn has(&self, key: &Key, bound: &Arc<Bound>) -> bool {
        self.pods.get(key).is_some_and(|place| Arc::ptr_eq(&place.bound, bound))
    }

    fn insert(&mut self, key: Key, bound: Arc<Bound>, committed: bool) {
        self.remove(&key);
        for edge in &bound.0 {
            *self.counts.entry(edge.clone()).or_default() += 1;
        }
        self.pods.insert(key, Place { bound, committed });
    }

    fn remove(&mut self, key: &Key) {
        let Some(place) = self.pods.remove(key) else { return };
        for edge in &place.bound.0 {
            if let Some(count) = self.counts.get_mut(edge) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(edge);
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct PodHead {
    spec: Option<NodeHead>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeHead {
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Deserialize)]
struct PodBody {
    metadata: MetaHead,
    spec: PodSpec,
}

#[derive(Deserialize)]
struct MetaHead {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// `None` for a Pod that is not bound.
fn bound(key: &Key, json: &[u8]) -> Option<Bound> {
    let head: PodHead = serde_json::from_slice(json).ok()?;
    let node = head.spec?.node_name.filter(|node| !node.is_empty())?;
    let [_, _, namespace, name] = <[String; 4]>::try_from(key.parts()?).ok()?;
    let body: PodBody = serde_json::from_slice(json).ok()?;
    let (node, namespace): (Arc<str>, Arc<str>) = (node.into(), namespace.into());
    let found = pod_references::all(&name, body.metadata.annotations.as_ref(), &body.spec);
    let edges = found.into_iter().map(|(kind, name)| {
        let (node, namespace) = (node.clone(), namespace.clone());
        Edge { node, namespace, kind, name }
    });
    Some(Bound(edges.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Value;
    use serde_json::json;

    fn put(name: &str, node: &str) -> Op {
        let annotations = json!({"wasmfleet.dev/config": "settings",
            "wasmfleet.dev/keyvalue": "shop"});
        let pod = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"nodeName": node,
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "a", "configMap": {"name": "map"}},
                {"name": "b", "secret": {"secretName": "secret"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "e", "ephemeral": {}}],
            "containers": [{"name": "main",
                "envFrom": [{"configMapRef": {"name": "all"}}],
                "env": [{"name": "X",
                    "valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}]}});
        let key = Key::new(&["", "pods", "ns", name]);
        let value = Value::plain(pod.to_string());
        Op::Put { key, value, expect: Expect::Any }
    }

    #[test]
    fn a_node_reads_what_its_pods_refer_to_while_they_are_there() {
        let graph = NodeGraph::default();
        let may = |kind, name: &str| graph.refers("n1", "ns", kind, name);
        let commit = |ops: &[Op], committed| {
            graph.after(graph.before(ops), committed);
        };
        commit(&[put("p", "")], true);
        assert!(!may(Referent::Secret, "secret"));
        // A commit that fails leaves nothing.
        commit(&[put("p", "n1")], false);
        assert!(!may(Referent::Secret, "secret"));
        // What is about to be committed counts at once.
        let pending = graph.before(&[put("p", "n1")]);
        for name in ["pull", "secret", "projected", "one"] {
            assert!(may(Referent::Secret, name), "{name}");
            assert!(!graph.refers("n2", "ns", Referent::Secret, name));
            assert!(!graph.refers("n1", "other", Referent::Secret, name));
        }
        graph.after(pending, true);
        assert!(may(Referent::ConfigMap, "map") && may(Referent::ConfigMap, "all"));
        let bucket = "keyvalue.shop";
        assert!(may(Referent::ConfigMap, "settings") && !may(Referent::Bucket, "settings"));
        assert!(may(Referent::ConfigMap, bucket) && may(Referent::Bucket, bucket));
        assert!(!may(Referent::ConfigMap, "secret") && !may(Referent::Secret, "map"));
        commit(&[put("q", "n1")], true);
        let delete = |name: &str| {
            let key = Key::new(&["", "pods", "ns", name]);
            Op::Delete { key, expect: Expect::Any, last: None }
        };
        commit(&[delete("p")], false);
        commit(&[delete("p")], true);
        assert!(may(Referent::Secret, "secret"));
        commit(&[delete("q")], true);
        assert!(!may(Referent::Secret, "secret"));
        assert!(graph.0.lock().counts.is_empty() && graph.0.lock().pods.is_empty());
    }

    #[test]
    fn a_node_reads_the_volumes_of_its_pods_and_its_own() {
        let graph = NodeGraph::default();
        let volume = |claim: &str, node: Option<&str>| {
            let by = node.map(|_| json!({storage::PROVISIONED_BY: storage::LOCAL_PROVISIONER}));
            let affinity = node.map(|node| {
                let on = json!({"key": storage::HOSTNAME, "operator": "In", "values": [node]});
                json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [on]}]}})
            });
            let volume = json!({"metadata": {"annotations": by}, "spec": {
                "claimRef": {"namespace": "ns", "name": claim}, "nodeAffinity": affinity}});
            volume.to_string().into_bytes()
        };
        let (shared, other) = (volume("claim", None), volume("elsewhere", None));
        assert!(!graph.concerns("n1", &shared, false));
        graph.after(graph.before(&[put("p", "n1")]), true);
        assert!(graph.refers("n1", "ns", Referent::Claim, "claim"));
        assert!(graph.refers("n1", "ns", Referent::Claim, "p-e"));
        assert!(graph.concerns("n1", &shared, false) && !graph.concerns("n2", &shared, false));
        assert!(!graph.concerns("n1", &shared, true) && !graph.concerns("n1", &other, false));
        let own = volume("elsewhere", Some("n1"));
        assert!(graph.concerns("n1", &own, true) && graph.concerns("n1", &own, false));
        assert!(!graph.concerns("n2", &own, true) && !graph.concerns("n2", &own, false));
    }

    #[test]
    fn of_two_who_bind_a_pod_the_one_who_succeeds_counts() {
        let graph = NodeGraph::default();
        let (one, two) = ([put("p", "n1")], [put("p", "n2")]);
        let (first, second) = (graph.before(&one), graph.before(&two));
        graph.after(second, true);
        graph.after(first, false);
        assert!(graph.refers("n2", "ns", Referent::Secret, "secret"));
        assert!(!graph.refers("n1", "ns", Referent::Secret, "secret"));
    }

    #[test]
    fn a_pod_that_is_bound_before_its_creation_is_told_counts() {
        let graph = NodeGraph::default();
        let Op::Put { key, value, .. } = put("p", "") else { unreachable!() };
        let creation = graph.before(&[Op::Put { key, value, expect: Expect::Absent }]);
        let binding = graph.before(&[put("p", "n1")]);
        graph.after(creation, true);
        assert!(graph.refers("n1", "ns", Referent::Secret, "secret"));
        graph.after(binding, true);
        assert!(graph.refers("n1", "ns", Referent::Secret, "secret"));
    }

    #[test]
    fn a_pod_that_follows_a_deleted_one_counts() {
        let graph = NodeGraph::default();
        let bind = [put("p", "n1")];
        graph.after(graph.before(&bind), true);
        let key = Key::new(&["", "pods", "ns", "p"]);
        let deletion = graph.before(&[Op::Delete { key, expect: Expect::Any, last: None }]);
        // Created and bound again before the deletion is told.
        let Op::Put { key, value, .. } = put("p", "") else { unreachable!() };
        let create = [Op::Put { key, value, expect: Expect::Absent }];
        graph.after(graph.before(&create), true);
        graph.after(graph.before(&bind), true);
        graph.after(deletion, true);
        assert!(graph.refers("n1", "ns", Referent::Secret, "secret"));
    }
}
