//! The rest of a cluster, as far as controllers notice it: a scheduler that binds pods to nodes, and
//! node agents that renew leases, run pods after a while and end them gracefully. No Wasm is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, PodIP};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use wasmfleet::api::{ApiError, Object, ObjectKey};
use wasmfleet::base::dirty_set::DirtySet;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::Cache;
use wasmfleet::client::{Client, DeleteOptions, SharedApi, Target, WriteOptions};

const RENEW_EVERY: Duration = Duration::from_secs(10);
const MOST_DELAY: Duration = Duration::from_millis(300);
const AGAIN: Duration = Duration::from_secs(1);
const WORKERS: usize = 8;
const LEASES: &str = "kube-node-lease";

/// The fakes; nodes are killed and revived by name.
pub struct Fakes {
    client: Client,
    cache: Arc<Cache>,
    clock: SharedClock,
    dirty: DirtySet<ObjectKey>,
    /// Whether each node's agent lives.
    nodes: Mutex<BTreeMap<String, bool>>,
    /// Pods that must not become ready.
    sick: Mutex<std::collections::BTreeSet<ObjectKey>>,
    random: Mutex<StdRng>,
}

enum Act {
    Nothing,
    Later,
    Bind(String),
    Run(Box<Pod>),
    End,
}

impl Fakes {
    pub fn start(api: SharedApi, clock: SharedClock, seed: u64, tasks: &Tasks) -> Arc<Fakes> {
        let cache = Cache::new();
        let fakes = Arc::new(Fakes {
            client: Client::new(api.clone(), "fakes"),
            cache: cache.clone(),
            clock,
            dirty: DirtySet::default(),
            nodes: Mutex::default(),
            sick: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let dirty = fakes.dirty.clone();
        cache.listen(Box::new(move |change| {
            if change.resource.resource == "pods" {
                dirty.mark(change.key.clone());
            }
        }));
        cache.keep::<Pod>(api.clone(), "", tasks);
        cache.keep::<Node>(api, "", tasks);
        for _ in 0..WORKERS {
            let fakes = fakes.clone();
            tasks.spawn("fake agent", async move { fakes.work().await });
        }
        fakes
    }

    /// Registers a node and starts its agent.
    pub async fn add_node(self: &Arc<Self>, name: &str, tasks: &Tasks) {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let node = Node { metadata, ..Node::default() };
        self.client.create(&node).await.expect("a node registers");
        self.nodes.lock().insert(name.into(), true);
        let (fakes, name) = (self.clone(), name.to_string());
        tasks.spawn("fake heartbeat", async move {
            loop {
                if fakes.lives(&name) {
                    // A conflict is repaired by the next beat.
                    let _ = fakes.beat(&name).await;
                }
                tokio::time::sleep(RENEW_EVERY).await;
            }
        });
    }

    pub fn set_alive(&self, node: &str, alive: bool) {
        self.nodes.lock().insert(node.into(), alive);
        let view = self.cache.view();
        for pod in view.all::<Pod>() {
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

    fn lives(&self, node: &str) -> bool {
        self.nodes.lock().get(node).copied().unwrap_or(false)
    }

    async fn beat(&self, name: &str) -> Result<(), ApiError> {
        let now = self.clock.now();
        let lease = |renewed| Lease {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(LEASES.into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.into()),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            }),
        };
        match self.client.get::<Lease>(LEASES, name).await {
            Ok(mut old) => {
                old.spec = lease(now).spec;
                self.client.update(&old).await?;
            }
            Err(_) => {
                self.client.create(&lease(now)).await?;
            }
        }
        let mut node = self.client.get::<Node>("", name).await?;
        let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
        if !conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True") {
            conditions.retain(|one| one.type_ != "Ready");
            conditions.push(NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                reason: Some("KubeletReady".into()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(Time(now)),
                ..NodeCondition::default()
            });
            self.client.update_status(&node).await?;
        }
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
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            if deleting {
                return Act::Nothing;
            }
            let fit: Vec<String> = view
                .all::<Node>()
                .filter(|node| takes_pods(node))
                .filter_map(|node| node.metadata.name.clone())
                .collect();
            if fit.is_empty() {
                return Act::Later;
            }
            let index = self.random.lock().random_range(0..fit.len());
            return Act::Bind(fit[index].clone());
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !self.lives(&node) {
            return Act::Nothing;
        }
        if deleting {
            return Act::End;
        }
        if matches!(phase, Some("Failed" | "Succeeded")) {
            return Act::Nothing;
        }
        let ready = if self.sick.lock().contains(key) { "False" } else { "True" };
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let mut told = conditions.filter(|one| one.type_ == "Ready");
        if told.next().is_some_and(|one| one.status == ready) {
            return Act::Nothing;
        }
        Act::Run(Box::new(self.running(pod, ready)))
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
            Act::Later => {
                self.dirty.mark_after(key.clone(), AGAIN);
                Ok(())
            }
            Act::Bind(node) => {
                let target = Target::one::<Pod>(&key.namespace, &key.name).subresource("binding");
                let body = json!({"apiVersion": "v1", "kind": "Binding",
                    "metadata": {"name": key.name}, "target": {"kind": "Node", "name": node}});
                let body = Object::from_value(body)?;
                self.client.api.create(&target, body, &WriteOptions::default()).await.map(|_| ())
            }
            Act::Run(pod) => self.client.update_status(&*pod).await.map(|_| ()),
            Act::End => {
                let now =
                    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                self.client.delete::<Pod>(&key.namespace, &key.name, &now).await
            }
        }
    }
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let tainted = spec.is_some_and(|spec| spec.taints.as_ref().is_some_and(|t| !t.is_empty()));
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|one| one.type_ == "Ready");
    !tainted && ready.next().is_some_and(|one| one.status == "True")
}
