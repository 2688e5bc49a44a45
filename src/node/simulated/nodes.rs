//! The Nodes: each is created ready, and told again when somebody takes it for lost, or deletes it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::json;

use super::feed::{Feed, Sink};
use super::{RETRY, Shared};
use crate::api::simulated::{SIMULATOR_LABEL, index_of, node_name};
use crate::api::{ApiError, Raw};
use crate::client::{Patch, Target};
use crate::node::pod_status::time;
use crate::node::register::{KUBELET_VERSION, basic_labels, is_refusal};

/// The wait before a node answers that it was taken for lost: whoever writes the Nodes again and
/// again must not be answered as fast.
const LOST_WAIT: Duration = Duration::from_millis(500);
/// What Nodes say runs their pods.
const RUNTIME: &str = concat!("simulated://", env!("CARGO_PKG_VERSION"));

/// Once the Lease is held, creates the Nodes, then notices what others do to them.
pub async fn follow(shared: Arc<Shared>) {
    shared.leased().await;
    (0..shared.options.nodes).for_each(|index| shared.nodes.mark(index));
    let feed = Feed {
        target: Target::all::<Node>(None),
        labels: format!("{SIMULATOR_LABEL}={}", shared.options.name),
        fields: String::new(),
    };
    feed.run(&shared.client.api, &Nodes(&shared)).await;
}

struct Nodes<'a>(&'a Shared);

impl Sink for Nodes<'_> {
    fn see(&self, raw: &Raw) {
        let Some((index, ready)) = look(self.0, raw) else { return };
        if !ready {
            self.0.nodes.mark_after(index, LOST_WAIT);
        }
    }

    fn gone(&self, raw: &Raw) {
        if let Some((index, _)) = look(self.0, raw) {
            self.0.nodes.mark_after(index, LOST_WAIT);
        }
    }
}

#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow)]
    metadata: SeenName<'a>,
    #[serde(borrow, default)]
    status: SeenStatus<'a>,
}

#[derive(Deserialize)]
struct SeenName<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
struct SeenStatus<'a> {
    #[serde(borrow, default)]
    conditions: Vec<super::status::SeenCondition<'a>>,
}

/// Which of the nodes an object is, and whether it says that the node is ready.
fn look(shared: &Shared, raw: &Raw) -> Option<(u32, bool)> {
    let seen: Seen<'_> = serde_json::from_slice(&raw.0).ok()?;
    let index = index_of(&shared.options.name, &seen.metadata.name)?;
    let ready = super::status::holds(&seen.status.conditions, "Ready");
    (index < shared.options.nodes).then_some((index, ready))
}

/// Tells of one node.
pub async fn work(shared: Arc<Shared>) {
    let index = shared.nodes.take().await;
    match tell(&shared, index).await {
        Ok(()) => _ = shared.told.send_if_modified(|told| told.insert(index)),
        Err(error) if is_refusal(&error) && !shared.told.borrow().contains(&index) => {
            let node = node_name(&shared.options.name, index);
            shared.fail(format!("the server refuses the node {node}: {error}"));
        }
        Err(error) => {
            tracing::warn!(simulator = shared.options.name, index, %error, "a node was not told");
            shared.nodes.mark_after(index, RETRY);
        }
    }
    shared.nodes.done(&index);
}

async fn tell(shared: &Shared, index: u32) -> Result<(), ApiError> {
    let node = node(shared, index);
    match shared.client.create(&node).await {
        Err(error) if error.is_already_exists() => {}
        created => return created.map(drop),
    }
    // It is there: labels and status are brought up to date, and all else is others'.
    let name = node.metadata.name.clone().unwrap_or_default();
    let labels = Patch::Merge(json!({"metadata": {"labels": node.metadata.labels}}));
    shared.client.patch::<Node>("", &name, labels).await?;
    let target = Target::one::<Node>("", &name).subresource("status");
    let patch = Patch::Strategic(json!({"status": node.status}));
    shared.client.api.patch(&target, patch, &Default::default()).await.map(drop)
}

fn node(shared: &Shared, index: u32) -> Node {
    let options = &shared.options;
    let name = node_name(&options.name, index);
    let mut labels: BTreeMap<String, String> =
        options.labels.iter().map(|(key, value)| (key.clone(), value.of(index))).collect();
    labels.extend(basic_labels(&name));
    labels.insert(SIMULATOR_LABEL.into(), options.name.clone());
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let now = time(shared.clock.now());
    let condition = |(type_, status, reason, message): (&str, &str, &str, &str)| NodeCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    };
    let nothing = "a simulated node has no machine";
    let conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", nothing),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", nothing),
        ("PIDPressure", "False", "KubeletHasSufficientPID", nothing),
        ("Ready", "True", "KubeletReady", "the simulator stands for this node"),
    ];
    let status = NodeStatus {
        addresses: Some(vec![
            address("InternalIP", options.host_ip.to_string()),
            address("Hostname", name.clone()),
        ]),
        capacity: Some(options.capacity.clone()),
        allocatable: Some(options.capacity.clone()),
        conditions: Some(conditions.map(condition).into()),
        node_info: Some(NodeSystemInfo {
            architecture: labels.get("kubernetes.io/arch").cloned().unwrap_or_default(),
            operating_system: std::env::consts::OS.into(),
            os_image: "simulated".into(),
            container_runtime_version: RUNTIME.into(),
            kubelet_version: KUBELET_VERSION.into(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    };
    let taints = Some(options.taints.clone()).filter(|taints| !taints.is_empty());
    Node {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints, ..NodeSpec::default() }),
        status: Some(status),
    }
}
