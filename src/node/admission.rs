//! Which pods the node takes, decided once, when a pod first comes: it must have room, the labels
//! that the pod asks for, no NoExecute taint that it does not tolerate, and the ports of the host
//! free. The scheduler looked at all this, but a pod may name its node itself, and a scheduler may
//! know less than the node. What was taken is never refused later, an agent's restart included.
//!
//! Source: pkg/kubelet/lifecycle/predicate.go, with its words; it makes room for nobody (no
//! preemption for critical pods). Extended resources that the node does not have are somebody
//! else's affair there, and here.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;

use super::host_ports::HostPorts;
use super::pod_state::spec;
use super::pod_status::is_terminal;
use super::register::{amounts, labels_of};
use super::{Options, Shared};
use crate::api::kinds::resources::{self, Sums};
use crate::api::kinds::static_pod;
use crate::api::placement;

/// The reasons of refusals that are about the Node object.
const NODE_AFFINITY: &str = "NodeAffinity";
const TAINT_TOLERATION: &str = "TaintToleration";
/// The resources that are asked about first, in this order.
const BASIC: [&str; 4] = ["pods", "cpu", "memory", "ephemeral-storage"];

/// What is taken of a resource, wide enough for any number of pods. CPU in thousandths of a core,
/// all else in whole units.
type Amount = i128;

/// Why the node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, why: &str) -> Refusal {
        Refusal { reason: reason.into(), message: format!("Pod was rejected: {why}") }
    }

    fn predicate(name: &str, why: &str) -> Refusal {
        Refusal::new(name, &format!("Predicate {name} failed: {why}"))
    }

    /// Whether it is about labels or taints, which may be newer than what was seen of them.
    fn is_of_the_object(&self) -> bool {
        matches!(self.reason.as_str(), NODE_AFFINITY | TAINT_TOLERATION)
    }
}

/// The pods that the node has taken, and what they take of it.
pub struct Admission {
    node: String,
    /// Of a Node object that is not there, or not seen yet.
    initial: Place,
    ledger: Mutex<Ledger>,
    ports: HostPorts,
}

/// What pods are judged by: the Node object as it was seen last.
#[derive(Clone, Default)]
struct Place {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    allocatable: BTreeMap<String, i64>,
}

struct Ledger {
    place: Place,
    /// The sum over all pods that were taken and have not ended.
    used: BTreeMap<String, Amount>,
    /// Those pods by uid, and what each takes.
    taken: HashMap<String, Box<[(String, i64)]>>,
}

impl Admission {
    pub fn new(options: &Options) -> Admission {
        let initial = Place {
            labels: labels_of(options),
            taints: options.taints.clone(),
            allocatable: whole(&resources::sums(Some(&amounts(options, None).1))),
        };
        let place = initial.clone();
        let ledger = Ledger { place, used: BTreeMap::new(), taken: HashMap::new() };
        let (node, ports) = (options.name.clone(), HostPorts::default());
        Admission { node, initial, ledger: Mutex::new(ledger), ports }
    }

    /// The Node object changed, or is gone. How much the node has of its own resources is not read
    /// from it: anybody may have written that.
    pub fn observe(&self, options: &Options, node: Option<&Node>) {
        let place = match node {
            None => self.initial.clone(),
            Some(node) => {
                let before = node.status.as_ref().and_then(|status| status.capacity.as_ref());
                let allocatable = resources::sums(Some(&amounts(options, before).1));
                Place {
                    labels: node.metadata.labels.clone().unwrap_or_default(),
                    taints: node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default(),
                    allocatable: whole(&allocatable),
                }
            }
        };
        self.ledger.lock().place = place;
    }

    /// Takes a pod, or says why not. It holds what it asks for until it is released.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut ledger = self.ledger.lock();
        if has_ended(pod) || ledger.taken.contains_key(&uid) {
            return Ok(());
        }
        let wants = whole(&resources::pod_requests(spec(pod)));
        if was_admitted(pod) {
            self.ports.hold(pod);
        } else {
            ledger.fits(&wants)?;
            ledger.place.suits(&self.node, pod)?;
            if !self.ports.claim(pod) {
                let why = "node(s) didn't have free ports for the requested pod ports";
                return Err(Refusal::predicate("NodePorts", why));
            }
        }
        ledger.take(uid, wants);
        Ok(())
    }

    /// What the pod took is free for others.
    pub fn release(&self, uid: &str) {
        self.ledger.lock().give_back(uid);
        self.ports.release(uid);
    }
}

impl Ledger {
    fn used(&self, resource: &str) -> Amount {
        self.used.get(resource).copied().unwrap_or_default()
    }

    /// Source: the scheduler's NodeResourcesFit, as kubelet calls it.
    fn fits(&self, wants: &BTreeMap<String, i64>) -> Result<(), Refusal> {
        let pods = i64::try_from(self.taken.len()).unwrap_or(i64::MAX);
        self.has_room("pods", 1, pods.into())?;
        let basic = BASIC[1..].iter().filter_map(|name| wants.get_key_value(*name));
        let others = wants.iter().filter(|(name, _)| !BASIC.contains(&name.as_str()));
        for (name, wanted) in basic.chain(others) {
            let is_elsewhere = is_extended(name) && !self.place.allocatable.contains_key(name);
            if !is_elsewhere {
                self.has_room(name, *wanted, self.used(name))?;
            }
        }
        Ok(())
    }

    fn has_room(&self, name: &str, wanted: i64, used: Amount) -> Result<(), Refusal> {
        let capacity = self.place.allocatable.get(name).copied().unwrap_or_default();
        if wanted <= 0 || Amount::from(wanted) + used <= capacity.into() {
            return Ok(());
        }
        let why = format!(
            "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, \
             capacity: {capacity}"
        );
        Err(Refusal::new(format!("OutOf{name}"), &why))
    }

    fn take(&mut self, uid: String, wants: BTreeMap<String, i64>) {
        let wants: Box<[(String, i64)]> = wants.into_iter().filter(|(_, n)| *n > 0).collect();
        for (name, amount) in &wants {
            *self.used.entry(name.clone()).or_default() += Amount::from(*amount);
        }
        self.taken.insert(uid, wants);
    }

    fn give_back(&mut self, uid: &str) {
        for (name, amount) in self.taken.remove(uid).into_iter().flatten() {
            let used = self.used(&name) - Amount::from(amount);
            match used {
                0 => self.used.remove(&name),
                used => self.used.insert(name, used),
            };
        }
    }
}

impl Place {
    fn suits(&self, node: &str, pod: &Pod) -> Result<(), Refusal> {
        let spec = spec(pod);
        if !placement::wants_node(spec, node, &self.labels) {
            let why = "node(s) didn't match Pod's node affinity/selector";
            return Err(Refusal::predicate(NODE_AFFINITY, why));
        }
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let mut taints = self.taints.iter().filter(|taint| taint.effect == "NoExecute");
        let tolerated = |taint: &Taint| tolerations.iter().any(|t| placement::tolerates(t, taint));
        if !static_pod::is_static(pod) && !taints.all(tolerated) {
            let why = "node(s) had taints that the pod didn't tolerate";
            return Err(Refusal::predicate(TAINT_TOLERATION, why));
        }
        Ok(())
    }
}

/// Looks at the Node itself where its labels or taints speak against a pod: the scheduler may have
/// seen newer ones.
pub(super) async fn reconsider(
    node: &Shared,
    pod: &Pod,
    admitted: Result<(), Refusal>,
) -> Result<(), Refusal> {
    let refusal = match admitted {
        Err(refusal) if refusal.is_of_the_object() => refusal,
        other => return other,
    };
    match node.client.get::<Node>("", &node.options.name).await {
        Ok(newest) => {
            node.admission.observe(&node.options, Some(&newest));
            node.admission.admit(pod)
        }
        Err(error) => {
            tracing::debug!(%error, "the node's labels were not read again");
            Err(refusal)
        }
    }
}

/// Whether an agent before this one took the pod, which goes on.
pub fn was_admitted(pod: &Pod) -> bool {
    // An agent writes it first of all, and nobody else does.
    let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    started && !has_ended(pod)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_some_and(is_terminal)
}

/// Names with a domain that is not Kubernetes' own (v1helper.IsExtendedResourceName).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// CPU in thousandths of a core, all else in whole units.
fn whole(sums: &Sums) -> BTreeMap<String, i64> {
    let amounts = sums.iter().map(|(name, amount)| {
        let amount = if name == "cpu" { amount.milli() } else { amount.value() };
        (name.clone(), amount)
    });
    amounts.collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::{Value, json};

    use super::*;
    use crate::node::Capacity;

    fn options() -> Options {
        let mut options = Options::new("n1", "/nowhere", IpAddr::from([127, 0, 0, 1]));
        options.capacity =
            Capacity { cpu_millicores: 1500, memory_bytes: 1 << 20, pods: 3, storage_bytes: 1000 };
        options.labels.insert("disk".into(), "ssd".into());
        options
    }

    fn pod(uid: &str, spec: Value, status: Value) -> Pod {
        let pod = json!({"metadata": {"uid": uid}, "spec": spec, "status": status});
        serde_json::from_value(pod).unwrap()
    }

    fn asks(uid: &str, requests: Value) -> Pod {
        let resources = json!({"requests": requests});
        let containers = json!([{"name": "c", "image": "i", "resources": resources}]);
        pod(uid, json!({"containers": containers}), json!({}))
    }

    fn refused(admission: &Admission, pod: &Pod) -> (String, String) {
        let Refusal { reason, message } = admission.admit(pod).unwrap_err();
        (reason, message.strip_prefix("Pod was rejected: ").unwrap().to_string())
    }

    #[test]
    fn what_fits_is_taken_until_it_is_released() {
        let admission = Admission::new(&options());
        assert_eq!(admission.admit(&asks("a", json!({"cpu": "1"}))), Ok(()));
        assert_eq!(admission.admit(&asks("a", json!({"cpu": "1"}))), Ok(()), "it is taken");
        let (reason, message) = refused(&admission, &asks("b", json!({"cpu": "5"})));
        assert_eq!(reason, "OutOfcpu");
        let wanted = "Node didn't have enough resource: cpu, requested: 5000, used: 1000, \
                      capacity: 1500";
        assert_eq!(message, wanted);
        let more = asks("c", json!({"cpu": "500m", "memory": "1Mi", "ephemeral-storage": 1000}));
        assert_eq!(admission.admit(&more), Ok(()));
        for (name, reason) in [
            ("memory", "OutOfmemory"),
            ("ephemeral-storage", "OutOfephemeral-storage"),
            ("hugepages-2Mi", "OutOfhugepages-2Mi"),
        ] {
            assert_eq!(refused(&admission, &asks("d", json!({name: 1}))).0, reason);
        }
        assert_eq!(admission.admit(&asks("d", json!({}))), Ok(()));
        assert_eq!(refused(&admission, &asks("e", json!({}))).0, "OutOfpods");
        for uid in ["a", "c", "c", "d", "unknown"] {
            admission.release(uid);
        }
        assert!(admission.ledger.lock().used.is_empty());
        assert_eq!(admission.admit(&asks("e", json!({"cpu": "1500m"}))), Ok(()));
    }

    #[test]
    fn an_earlier_agents_pods_keep_their_places() {
        let admission = Admission::new(&options());
        let resources = json!({"requests": {"cpu": "9"}});
        let spec = json!({"nodeSelector": {"x": "y"},
            "containers": [{"name": "c", "image": "i", "resources": resources}]});
        let began = |phase: &str| json!({"phase": phase, "startTime": "2026-01-01T00:00:00Z"});
        assert_eq!(admission.admit(&pod("done", spec.clone(), began("Failed"))), Ok(()));
        assert_eq!(admission.admit(&asks("a", json!({"cpu": "1"}))), Ok(()), "it takes nothing");
        assert_eq!(admission.admit(&pod("old", spec, began("Running"))), Ok(()));
        let (_, message) = refused(&admission, &asks("b", json!({"cpu": "100m"})));
        assert!(message.contains("used: 10000"), "{message}");
    }

    #[test]
    fn labels_and_taints_are_the_nodes_newest() {
        let admission = Admission::new(&options());
        let picky = |uid: &str, key: &str| {
            let selector = json!({key: "ssd"});
            pod(uid, json!({"nodeSelector": selector, "containers": []}), json!({}))
        };
        assert_eq!(admission.admit(&picky("a", "disk")), Ok(()));
        let (reason, message) = refused(&admission, &picky("b", "x"));
        assert_eq!(reason, "NodeAffinity");
        let wanted =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        assert_eq!(message, wanted);
        let node = |effect: &str| -> Node {
            let taints = json!([{"key": "k", "effect": effect}]);
            let node = json!({"metadata": {"labels": {"x": "ssd"}}, "spec": {"taints": taints}});
            serde_json::from_value(node).unwrap()
        };
        admission.observe(&options(), Some(&node("NoSchedule")));
        assert_eq!(admission.admit(&picky("b", "x")), Ok(()), "only NoExecute counts");
        admission.observe(&options(), Some(&node("NoExecute")));
        assert_eq!(refused(&admission, &picky("c", "x")).0, "TaintToleration");
        let tolerations = json!([{"operator": "Exists"}]);
        let spec = json!({"tolerations": tolerations, "containers": []});
        assert_eq!(admission.admit(&pod("c", spec, json!({}))), Ok(()));
    }

    #[test]
    fn resources_that_others_tell_of_are_counted_where_there_are_some() {
        let admission = Admission::new(&options());
        assert_eq!(admission.admit(&asks("a", json!({"example.com/gpu": 7}))), Ok(()));
        let told = |gpus: &str| -> Node {
            let capacity = json!({"cpu": "100", "example.com/gpu": gpus});
            serde_json::from_value(json!({"metadata": {}, "status": {"capacity": capacity}}))
                .unwrap()
        };
        admission.observe(&options(), Some(&told("8")));
        assert_eq!(admission.admit(&asks("b", json!({"example.com/gpu": 1}))), Ok(()));
        let (reason, message) = refused(&admission, &asks("c", json!({"example.com/gpu": 1})));
        assert_eq!(reason, "OutOfexample.com/gpu");
        assert!(message.ends_with("requested: 1, used: 8, capacity: 8"), "{message}");
        // What the node has itself, it knows better.
        assert_eq!(refused(&admission, &asks("c", json!({"cpu": "2"}))).0, "OutOfcpu");
    }
}
