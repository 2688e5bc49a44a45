//! The rest of a cluster, as far as controllers notice it: node agents that register, renew leases,
//! run pods after a while and end them gracefully. No Wasm is run.
//!
//! Each does what the real agent does, and repairs no more than that: it registers again when its
//! Node is gone, and sends its status when the object's differs, of its Node and of its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Node, NodeCondition, Pod,
    PodCondition, PodIP,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use wasmfleet::api::{ApiError, ObjectKey};
use wasmfleet::base::dirty_set::DirtySet;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::Cache;
use wasmfleet::client::{Client, DeleteOptions, SharedApi};

const RENEW_EVERY: Duration = Duration::from_secs(10);
const MOST_DELAY: Duration = Duration::from_millis(300);
const AGAIN: Duration = Duration::from_secs(1);
const WORKERS: usize = 8;
/// How long pods run whose container has an argument `exit=CODE`; with `exit=some`, every fifth
/// one fails.
const MOST_RUN: Duration = Duration::from_secs(20);
const SOME_FAIL: f64 = 0.2;
const LEASES: &str = "kube-node-lease";
/// What a node has: pods that ask for nothing find room always.
pub const MILLI_CPU: i64 = 1000;
pub const MOST_PODS: usize = 110;

/// How an agent fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Up,
    /// It lives, and its pods run on, but nothing comes through in either direction.
    Cut,
    /// It is dead; when it comes up its pods start anew.
    Down,
}

/// The fakes; nodes are cut off, killed and revived by name.
pub struct Fakes {
    client: Client,
    /// Pods and Nodes, as they are.
    cache: Arc<Cache>,
    clock: SharedClock,
    dirty: DirtySet<ObjectKey>,
    nodes: Mutex<BTreeMap<String, Link>>,
    /// Each node's Lease, as it was written last.
    leases: Mutex<BTreeMap<String, Lease>>,
    /// Pods that must not become ready.
    sick: Mutex<BTreeSet<ObjectKey>>,
    /// Pods whose containers died with their agent and were not started again yet, by uid.
    died: Mutex<BTreeSet<String>>,
    /// When pods end that are to end, by uid.
    ends: Mutex<BTreeMap<String, Instant>>,
    random: Mutex<StdRng>,
}

enum Act {
    Nothing,
    Run(Box<Pod>),
    End,
}

impl Fakes {
    /// `cache` keeps Pods and Nodes.
    pub fn start(
        api: SharedApi,
        cache: &Arc<Cache>,
        clock: SharedClock,
        seed: u64,
        tasks: &Tasks,
    ) -> Arc<Fakes> {
        let fakes = Arc::new(Fakes {
            client: Client::new(api, "fakes"),
            cache: cache.clone(),
            clock,
            dirty: DirtySet::default(),
            nodes: Mutex::default(),
            leases: Mutex::default(),
            sick: Mutex::default(),
            died: Mutex::default(),
            ends: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let dirty = fakes.dirty.clone();
        cache.listen(Box::new(move |change| {
            if change.resource.resource == "pods" {
                dirty.mark(change.key.clone());
            }
        }));
        for _ in 0..WORKERS {
            let fakes = fakes.clone();
            tasks.spawn("fake agent", async move { fakes.work().await });
        }
        fakes
    }

    /// Registers a node and starts its agent.
    pub async fn add_node(self: &Arc<Self>, name: &str, tasks: &Tasks) {
        self.try_add_node(name, tasks).await.expect("a node registers");
    }

    /// The same, where the API may refuse it.
    pub async fn try_add_node(self: &Arc<Self>, name: &str, tasks: &Tasks) -> Result<(), ApiError> {
        self.client.create(&fresh(name)).await?;
        self.nodes.lock().insert(name.into(), Link::Up);
        let (fakes, name) = (self.clone(), name.to_string());
        tasks.spawn("fake heartbeat", async move {
            loop {
                if fakes.link(&name) == Link::Up {
                    // A conflict is repaired by the next beat.
                    let _ = fakes.beat(&name).await;
                }
                tokio::time::sleep(RENEW_EVERY).await;
            }
        });
        Ok(())
    }

    pub fn set(&self, node: &str, link: Link) {
        let before = self.nodes.lock().insert(node.into(), link);
        let view = self.cache.view();
        for pod in view.indexed::<Pod>(node) {
            if before == Some(Link::Down) && link != Link::Down {
                self.died.lock().extend(pod.metadata.uid.clone());
            }
            self.dirty.mark(ObjectKey::of(&pod.metadata));
        }
    }

    /// Makes a pod unready until [`Fakes::heal`].
    pub fn make_sick(&self, key: &ObjectKey) {
        self.sick.lock().insert(key.clone());
        self.dirty.mark(key.clone());
    }

    pub fn heal(&self) {
        let sick = std::mem::take(&mut *self.sick.lock());
        sick.into_iter().for_each(|key| self.dirty.mark(key));
    }

    pub fn names(&self) -> Vec<String> {
        self.nodes.lock().keys().cloned().collect()
    }

    fn link(&self, node: &str) -> Link {
        self.nodes.lock().get(node).copied().unwrap_or(Link::Down)
    }

    async fn beat(&self, name: &str) -> Result<(), ApiError> {
        let now = self.clock.now();
        self.renew(name, now).await?;
        let known = self.cache.view().get::<Node>("", name).cloned();
        let mut node = match known {
            Some(node) if is_told_ready(&node) => return Ok(()),
            Some(node) => Node::clone(&node),
            None => self.client.create(&fresh(name)).await?,
        };
        let status = node.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|one| one.type_ != "Ready");
        conditions.push(NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: Some("KubeletReady".into()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
            ..NodeCondition::default()
        });
        status.capacity = Some(resources());
        status.allocatable = Some(resources());
        self.client.update_status(&node).await.map(drop)
    }

    /// Renews a Lease as it was written last; it is read only after a failure.
    async fn renew(&self, name: &str, now: Timestamp) -> Result<(), ApiError> {
        let spec = || LeaseSpec {
            holder_identity: Some(name.into()),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let renewed = |lease: Lease| Lease { spec: Some(spec()), ..lease };
        let known = self.leases.lock().remove(name);
        let written = match known {
            Some(lease) => self.client.update(&renewed(lease)).await.ok(),
            None => None,
        };
        let lease = match written {
            Some(lease) => lease,
            None => match self.client.get::<Lease>(LEASES, name).await {
                Ok(lease) => self.client.update(&renewed(lease)).await?,
                Err(_) => {
                    let (name, namespace) = (Some(name.into()), Some(LEASES.into()));
                    let metadata = ObjectMeta { name, namespace, ..ObjectMeta::default() };
                    self.client.create(&Lease { metadata, spec: Some(spec()) }).await?
                }
            },
        };
        self.leases.lock().insert(name.into(), lease);
        Ok(())
    }

    async fn work(&self) {
        loop {
            let key = self.dirty.take().await;
            let wait = self.random.lock().random_range(Duration::ZERO..MOST_DELAY);
            tokio::time::sleep(wait).await;
            let act = self.decide(&key);
            if self.perform(&key, act).await.is_err() {
                self.dirty.mark_after(key.clone(), AGAIN);
            }
            self.dirty.done(&key);
        }
    }

    fn decide(&self, key: &ObjectKey) -> Act {
        let view = self.cache.view();
        let Some(pod) = view.get_key::<Pod>(key) else { return Act::Nothing };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if self.link(&node) != Link::Up {
            return Act::Nothing;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Act::End;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Failed" | "Succeeded")) {
            return Act::Nothing;
        }
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let told = conditions.into_iter().find(|one| one.type_ == "Ready");
        let told = told.map(|one| one.status.as_str());
        let died = pod.metadata.uid.as_ref().is_some_and(|uid| self.died.lock().remove(uid));
        let stopped = died && told == Some("True");
        let ready = if stopped || self.sick.lock().contains(key) { "False" } else { "True" };
        if told == Some(ready) {
            return self.ending(key, pod);
        }
        Act::Run(Box::new(self.running(pod, ready)))
    }

    /// Whether a pod that runs has come to its end.
    fn ending(&self, key: &ObjectKey, pod: &Pod) -> Act {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut arguments = containers.flat_map(|one| one.args.iter().flatten());
        let Some(end) = arguments.find_map(|argument| argument.strip_prefix("exit=")) else {
            return Act::Nothing;
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut random = self.random.lock();
        let at = Instant::now() + random.random_range(Duration::ZERO..MOST_RUN);
        let at = *self.ends.lock().entry(uid).or_insert(at);
        let left = at.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.dirty.mark_after(key.clone(), left);
            return Act::Nothing;
        }
        let fails = end == "1" || (end == "some" && random.random_bool(SOME_FAIL));
        Act::Run(Box::new(self.ended(pod, i32::from(fails))))
    }

    fn ended(&self, pod: &Pod, exit_code: i32) -> Pod {
        let mut pod = pod.clone();
        let now = Some(Time(self.clock.now()));
        let status = pod.status.get_or_insert_default();
        status.phase = Some(if exit_code == 0 { "Succeeded" } else { "Failed" }.into());
        for condition in status.conditions.iter_mut().flatten().filter(|c| c.type_ == "Ready") {
            condition.status = "False".into();
            condition.last_transition_time = now.clone();
        }
        let terminated = ContainerStateTerminated {
            exit_code,
            finished_at: now,
            ..ContainerStateTerminated::default()
        };
        status.container_statuses = Some(vec![ContainerStatus {
            name: "c".into(),
            state: Some(ContainerState {
                terminated: Some(terminated),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        }]);
        pod
    }

    fn running(&self, pod: &Pod, ready: &str) -> Pod {
        let mut pod = pod.clone();
        let number = self.random.lock().random_range(0..1 << 22u32);
        let (a, b, c) = (number >> 16, (number >> 8) & 255, number & 255);
        let status = pod.status.get_or_insert_default();
        status.phase = Some("Running".into());
        let ip = status.pod_ip.clone().unwrap_or_else(|| format!("127.{}.{b}.{c}", 64 + a));
        status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
        status.pod_ip = Some(ip);
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|one| one.type_ != "Ready");
        conditions.push(PodCondition {
            type_: "Ready".into(),
            status: ready.into(),
            last_transition_time: Some(Time(self.clock.now())),
            ..PodCondition::default()
        });
        pod
    }

    async fn perform(&self, key: &ObjectKey, act: Act) -> Result<(), ApiError> {
        match act {
            Act::Nothing => Ok(()),
            Act::Run(pod) => self.client.update_status(&*pod).await.map(|_| ()),
            Act::End => {
                let now =
                    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                self.client.delete::<Pod>(&key.namespace, &key.name, &now).await
            }
        }
    }
}

/// A node as an agent registers it; its status follows.
fn fresh(name: &str) -> Node {
    let dir = ("wasmfleet.dev/volumes-dir".to_string(), format!("/data/{name}/volumes"));
    let metadata = ObjectMeta {
        name: Some(name.into()),
        labels: Some([("kubernetes.io/hostname".to_string(), name.to_string())].into()),
        annotations: Some([dir].into()),
        ..ObjectMeta::default()
    };
    Node { metadata, ..Node::default() }
}

fn is_told_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|one| one.type_ == "Ready" && one.status == "True")
}

fn resources() -> BTreeMap<String, Quantity> {
    let all = [
        ("cpu", format!("{MILLI_CPU}m")),
        ("memory", "8Gi".into()),
        ("pods", MOST_PODS.to_string()),
    ];
    all.into_iter().map(|(name, amount)| (name.to_string(), Quantity(amount))).collect()
}
