//! The node as the API sees it: creates and updates the Node object, renews its Lease, and takes
//! over the pod range that the control plane assigns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use tokio::time::Instant;

use super::machine::{Machine, Pressure, Store};
use super::pod_status::time;
use super::{Capacity, Options, Shared, static_pods};
use crate::api::ApiError;
use crate::api::kinds::resources::{self, Amounts};
use crate::api::kinds::storage::VOLUMES_DIR;
use crate::runtime::WASMTIME_VERSION;

/// The version of the Kubernetes API that the node speaks, and ours.
pub(super) const KUBELET_VERSION: &str = concat!("v1.35.0+wasm.", env!("CARGO_PKG_VERSION"));
/// The namespace of node heartbeats.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The wait after a failed registration or renewal, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MOST_RETRY: Duration = Duration::from_secs(5);
/// Conflicts that one update of the Node tries to get over.
const MOST_CONFLICTS: usize = 5;

/// How often the machine's memory and disk are looked at (kubelet's eviction manager: 10 s).
const PRESSURE_PERIOD: Duration = Duration::from_secs(10);
/// The wait before the node answers that the control plane took it for lost: whoever writes the
/// Node again and again must not be answered as fast.
const LOST_WAIT: Duration = Duration::from_millis(500);
/// The same for the Lease, which is first: a node that tells of itself without it is lost again.
const LEASE_LOST_WAIT: Duration = Duration::from_millis(100);

/// Whether the server will not have the Node as it is: it is no use to try again.
pub(super) fn is_refusal(error: &ApiError) -> bool {
    matches!(error.code, 403 | 422)
}

/// Registers, then keeps the Node's status up: at once when something changed here, soon after
/// the control plane lost sight of the node, else by period. A first try that the server refuses is
/// the last: nobody changes the labels and taints of an agent that runs.
pub async fn keep_node(node: Arc<Shared>) {
    let mut wait = FIRST_RETRY;
    let mut was_told = false;
    loop {
        match publish(&node).await {
            Ok(told) => {
                (wait, was_told) = (FIRST_RETRY, true);
                tokio::select! {
                    () = node.node_changed.notified() => {}
                    () = lost(&node) => {}
                    () = pressure_other_than(&node, told) => {}
                    () = node.clock.sleep(node.options.status_period) => {}
                }
            }
            Err(error) if !was_told && is_refusal(&error) => {
                node.refused.send_replace(Some(error));
                return std::future::pending().await;
            }
            Err(error) => {
                tracing::warn!(node = node.options.name, %error, "the node was not registered");
                node.clock.sleep(wait).await;
                wait = (wait * 2).min(MOST_RETRY);
            }
        }
    }
}

async fn lost(node: &Shared) {
    node.node_lost.notified().await;
    node.clock.sleep(LOST_WAIT).await;
}

async fn lease_lost(node: &Shared) {
    node.lease_lost.notified().await;
    node.clock.sleep(LEASE_LOST_WAIT).await;
}

/// Resolves when memory or disk run low, or do no longer.
async fn pressure_other_than(node: &Shared, told: Pressure) {
    loop {
        node.clock.sleep(PRESSURE_PERIOD).await;
        if node.pressure().await != told {
            return;
        }
    }
}

/// Creates or updates the Node with its labels and status; answers what was told of the machine.
async fn publish(node: &Shared) -> Result<Pressure, ApiError> {
    let name = &node.options.name;
    let (pressure, machine) = (node.pressure().await, node.machine().await);
    for _ in 0..MOST_CONFLICTS {
        let current = match node.client.get::<Node>("", name).await {
            Ok(current) => current,
            Err(error) if error.is_not_found() => {
                match node.client.create(&fresh_node(node)).await {
                    Err(error) if error.is_already_exists() => continue,
                    created => created?,
                }
            }
            Err(error) => return Err(error),
        };
        take_range(node, &current);
        match update(node, current, &pressure, &machine).await {
            Err(error) if error.is_conflict() => continue,
            other => return other.map(|()| pressure),
        }
    }
    Err(ApiError::unavailable("the Node is written by others all the time"))
}

async fn update(
    node: &Shared,
    mut current: Node,
    pressure: &Pressure,
    machine: &Machine,
) -> Result<(), ApiError> {
    let labels = current.metadata.labels.get_or_insert_default();
    let wanted = labels_of(&node.options);
    let mut changed = wanted.iter().any(|(key, value)| labels.get(key) != Some(value));
    labels.extend(wanted);
    let annotations = current.metadata.annotations.get_or_insert_default();
    for (key, value) in annotations_of(node) {
        changed |= annotations.insert(key, value.clone()) != Some(value);
    }
    if changed {
        current = node.client.update(&current).await?;
    }
    let now = node.clock.now();
    let status = status(node, current.status.as_ref(), pressure, machine, now);
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    *node.told_ready.lock() = ready.map(|ready| ready.status.clone());
    current.status = Some(status);
    node.client.update_status(&current).await.map(drop)
}

fn fresh_node(node: &Shared) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(node.options.name.clone()),
            labels: Some(labels_of(&node.options)),
            annotations: Some(annotations_of(node)),
            ..ObjectMeta::default()
        },
        // Only at the creation: later they are administrators'.
        spec: Some(NodeSpec {
            taints: Some(node.options.taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// What the provisioner of volumes has to know.
fn annotations_of(node: &Shared) -> BTreeMap<String, String> {
    let dir = node.facts.host.volumes_dir.to_string_lossy();
    BTreeMap::from([(VOLUMES_DIR.to_string(), dir.into_owned())])
}

pub(super) fn labels_of(options: &Options) -> BTreeMap<String, String> {
    let mut labels = options.labels.clone();
    labels.extend(basic_labels(&options.name));
    labels
}

/// The labels that every node has.
pub(super) fn basic_labels(node: &str) -> [(String, String); 5] {
    let (os, arch) = (std::env::consts::OS, go_arch());
    [
        ("kubernetes.io/hostname", node),
        ("kubernetes.io/os", os),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", os),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.into(), value.into()))
}

/// Go's names of architectures, which the label's users expect.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The node's own object changed, or is gone: takes over its range, and notices when it does not
/// say what this agent told, so that a partition or a deletion does not outlast its cause.
pub fn observe(node: &Shared, object: Option<&Node>) {
    node.admission.observe(&node.options, object);
    if let Some(object) = object {
        take_range(node, object);
    }
    let told = node.told_ready.lock().clone();
    let Some(told) = told else { return };
    let conditions = object.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    let is_ours = object.is_some_and(|object| tells_own_amounts(&node.options, object));
    let is_lost = ready.is_none_or(|ready| ready.status != told);
    if is_lost {
        node.lease_lost.notify_one();
    }
    if !is_ours || is_lost {
        node.node_lost.notify_one();
    }
}

/// Whether a Node says how much there is as its agent would: anybody may write the status, by
/// mistake or to add resources of their own.
fn tells_own_amounts(options: &Options, object: &Node) -> bool {
    let status = object.status.as_ref();
    let told = [
        status.and_then(|status| status.capacity.as_ref()),
        status.and_then(|status| status.allocatable.as_ref()),
    ];
    let (capacity, allocatable) = amounts(options, told[0]);
    let same = |told: Option<&Amounts>, own| resources::sums(told) == resources::sums(Some(own));
    same(told[0], &capacity) && same(told[1], &allocatable)
}

/// Takes over `spec.podCIDR` once the control plane has set it.
pub fn take_range(node: &Shared, object: &Node) {
    let Some(cidr) = object.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()) else { return };
    match node.ips.set_range(cidr) {
        Ok(true) => {
            tracing::info!(node = node.options.name, cidr, "pod range");
            static_pods::remember(node, cidr);
            node.node_changed.notify_one();
        }
        Ok(false) => {}
        Err(error) => tracing::error!(node = node.options.name, %error, "spec.podCIDR"),
    }
}

fn status(
    node: &Shared,
    old: Option<&NodeStatus>,
    pressure: &Pressure,
    machine: &Machine,
    now: Timestamp,
) -> NodeStatus {
    let (capacity, allocatable) = amounts(&node.options, old.and_then(|old| old.capacity.as_ref()));
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", node.options.host_ip.to_string()),
            address("Hostname", node.options.name.clone()),
        ]),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(node, old, pressure, now)),
        declared_features: Some(node.options.features.clone()).filter(|all| !all.is_empty()),
        images: Some(node.images_seen.list()),
        node_info: Some(NodeSystemInfo {
            architecture: go_arch().into(),
            boot_id: machine.boot_id.clone(),
            // As `kubectl get nodes -o wide` shows it.
            container_runtime_version: format!("wasmtime://{WASMTIME_VERSION}"),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: std::env::consts::OS.into(),
            os_image: machine.os_image.clone(),
            swap: None,
            system_uuid: machine.machine_id.clone(),
        }),
        ..old.cloned().unwrap_or_default()
    }
}

/// Capacity and what of it is for pods, of a Node whose capacity was told before. How much there is
/// of resources that are not the node's own, others say there, as a kubelet lets them (names with a
/// domain): all of that is for pods.
pub(super) fn amounts(options: &Options, told: Option<&Amounts>) -> (Amounts, Amounts) {
    let extended = || {
        let extended = told.into_iter().flatten().filter(|(name, _)| name.contains('/'));
        extended.map(|(name, amount)| (name.clone(), amount.clone()))
    };
    let with_extended = |own: &Capacity| extended().chain(own_amounts(own)).collect();
    (with_extended(&options.capacity), with_extended(&options.allocatable()))
}

fn own_amounts(capacity: &Capacity) -> Amounts {
    BTreeMap::from([
        ("cpu".into(), Quantity(format!("{}m", capacity.cpu_millicores))),
        ("memory".into(), Quantity(format!("{}Ki", capacity.memory_bytes / 1024))),
        ("pods".into(), Quantity(capacity.pods.to_string())),
        ("ephemeral-storage".into(), Quantity(capacity.storage_bytes.to_string())),
    ])
}

/// Type, whether it holds, reason, message.
type Told = (&'static str, bool, &'static str, &'static str);

/// A problem of the node in the manner of those that node-problem-detector tells.
const STORE_PROBLEM: &str = "ArtifactStoreProblem";
const FULL_STORE: &str = "the disk of the artifacts is nearly full";

fn conditions(
    node: &Shared,
    old: Option<&NodeStatus>,
    pressure: &Pressure,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let pick = |holds: bool, yes: Told, no: Told| if holds { yes } else { no };
    let told = [
        pick(
            pressure.memory,
            ("MemoryPressure", true, "KubeletHasInsufficientMemory", "the machine's memory is low"),
            ("MemoryPressure", false, "KubeletHasSufficientMemory", "enough memory is available"),
        ),
        // As a kubelet does it, also for the disk of images: pods stay away then.
        pick(
            pressure.disk || pressure.store == Store::Full,
            (
                "DiskPressure",
                true,
                "KubeletHasDiskPressure",
                if pressure.disk { "the data directory's disk is nearly full" } else { FULL_STORE },
            ),
            ("DiskPressure", false, "KubeletHasNoDiskPressure", "enough disk space is available"),
        ),
        match pressure.store {
            Store::Usable => {
                (STORE_PROBLEM, false, "ArtifactStoreIsUsable", "artifacts can be kept")
            }
            Store::Full => (STORE_PROBLEM, true, "ArtifactStoreIsFull", FULL_STORE),
            Store::ReadOnly => {
                let text = "the file system of the artifacts is read-only: nothing can be pulled";
                (STORE_PROBLEM, true, "ArtifactStoreIsReadOnly", text)
            }
        },
        // Guests are no processes of the machine.
        ("PIDPressure", false, "KubeletHasSufficientPID", "guests take no process ids"),
        pick(
            node.ips.is_ready(),
            ("Ready", true, "KubeletReady", "the node agent is posting ready status"),
            ("Ready", false, "KubeletNotReady", "waiting for spec.podCIDR"),
        ),
    ];
    let before = old.and_then(|status| status.conditions.as_ref());
    let mut list: Vec<NodeCondition> = Vec::new();
    for (type_, holds, reason, message) in told {
        let status = if holds { "True" } else { "False" };
        let same = before.into_iter().flatten().find(|c| c.type_ == type_ && c.status == status);
        let since = same.and_then(|c| c.last_transition_time.clone());
        list.push(NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: since.or_else(|| Some(time(now))),
        });
    }
    let foreign = before.into_iter().flatten().filter(|c| told.iter().all(|t| t.0 != c.type_));
    list.extend(foreign.cloned());
    list
}

/// Renews the Lease that tells the control plane that the node is alive (KEP-589): by period, and soon
/// after the control plane took the node for lost, which it does by a Lease that nobody holds. Nobody
/// watches the Lease itself: that it is gone has no effect for longer than a period.
pub async fn keep_lease(node: Arc<Shared>) {
    let mut held: Option<Lease> = None;
    let mut wait = FIRST_RETRY;
    let mut grace = node.grace.subscribe();
    loop {
        let sent = Instant::now();
        match renew(&node, held.take()).await {
            Ok(lease) => {
                node.renewals.renewed(sent);
                held = Some(lease);
                wait = FIRST_RETRY;
                let period = node.lease_times().period;
                tokio::select! {
                    () = node.clock.sleep(period) => {}
                    () = lease_lost(&node) => {}
                    // The sender lives as long as the node.
                    _ = grace.changed() => {}
                }
            }
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(node = node.options.name, %error, "the lease was not renewed");
                }
                node.clock.sleep(wait).await;
                wait = (wait * 2).min(MOST_RETRY);
            }
        }
    }
}

/// Updates the lease as last seen; anything unexpected is read again at the next try.
async fn renew(node: &Shared, held: Option<Lease>) -> Result<Lease, ApiError> {
    let name = &node.options.name;
    let lease = match held {
        Some(lease) => Some(lease),
        None => match node.client.get::<Lease>(LEASE_NAMESPACE, name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let seconds = i32::try_from(node.lease_times().duration.as_secs()).unwrap_or(i32::MAX);
    let mut spec = lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(node.clock.now())),
        ..spec
    };
    match lease {
        Some(lease) => node.client.update(&Lease { spec: Some(spec), ..lease }).await,
        None => {
            // The Lease goes with its Node.
            let owner = node.client.get::<Node>("", name).await?;
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASE_NAMESPACE.into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: name.clone(),
                    uid: owner.metadata.uid.unwrap_or_default(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            };
            node.client.create(&Lease { metadata, spec: Some(spec) }).await
        }
    }
}

/// The artifacts that were used here, newest last; the scheduler prefers nodes that have them.
#[derive(Default)]
pub struct ImagesSeen {
    list: parking_lot::Mutex<Vec<ContainerImage>>,
}

/// Images that the Node object lists (kubelet's nodeStatusMaxImages).
const MOST_IMAGES: usize = 50;

impl ImagesSeen {
    /// Answers whether the image is new here.
    pub fn add(&self, name: &str, image: &super::images::ResolvedImage) -> bool {
        let names = vec![image.image_id.clone(), name.to_string()];
        let mut list = self.list.lock();
        if list.iter().any(|seen| seen.names.as_ref() == Some(&names)) {
            return false;
        }
        if list.len() == MOST_IMAGES {
            list.remove(0);
        }
        let size_bytes = i64::try_from(image.size_bytes).ok().filter(|size| *size > 0);
        list.push(ContainerImage { names: Some(names), size_bytes });
        true
    }

    pub fn list(&self) -> Vec<ContainerImage> {
        self.list.lock().clone()
    }
}
