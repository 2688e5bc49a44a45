//! The part of a pod that a simulator reads, and the statuses that it writes.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// A pod in its stored bytes, of which nothing else is read.
#[derive(Deserialize)]
pub struct Seen<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    generation: i64,
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    finalizers: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    node_name: Cow<'a, str>,
    #[serde(borrow, default)]
    restart_policy: Cow<'a, str>,
    #[serde(borrow, default)]
    containers: Vec<SeenContainer<'a>>,
    #[serde(borrow, default)]
    init_containers: Vec<SeenContainer<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenContainer<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    image: Cow<'a, str>,
    #[serde(borrow, default)]
    restart_policy: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow, default)]
    phase: Cow<'a, str>,
    #[serde(rename = "podIP", borrow, default)]
    pod_ip: Cow<'a, str>,
    #[serde(borrow, default)]
    conditions: Vec<SeenCondition<'a>>,
}

#[derive(Deserialize)]
pub struct SeenCondition<'a> {
    #[serde(rename = "type", borrow)]
    type_: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

/// Whether a condition is True.
pub fn holds(conditions: &[SeenCondition<'_>], type_: &str) -> bool {
    conditions.iter().any(|one| one.type_ == type_ && one.status == "True")
}

/// What is kept of a pod until its last status is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    generation: i64,
    /// Its containers may end by themselves (`restartPolicy` is not Always).
    pub may_finish: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Container {
    name: Box<str>,
    image: Box<str>,
    is_sidecar: bool,
}

impl<'a> Seen<'a> {
    pub fn read(bytes: &'a [u8]) -> Option<Seen<'a>> {
        serde_json::from_slice(bytes).ok()
    }

    pub fn uid(&self) -> &str {
        &self.metadata.uid
    }

    pub fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    pub fn node(&self) -> &str {
        &self.spec.node_name
    }

    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether somebody looks at it before it goes.
    pub fn is_held(&self) -> bool {
        !self.metadata.finalizers.is_empty()
    }

    pub fn is_finished(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    pub fn is_ready(&self) -> bool {
        self.status.phase == "Running" && holds(&self.status.conditions, "Ready")
    }

    pub fn address(&self) -> Option<Ipv4Addr> {
        self.status.pod_ip.parse().ok()
    }

    pub fn may_finish(&self) -> bool {
        matches!(&*self.spec.restart_policy, "Never" | "OnFailure")
    }

    pub fn facts(&self) -> Facts {
        let container = |one: &SeenContainer<'_>| Container {
            name: one.name.as_ref().into(),
            image: one.image.as_ref().into(),
            is_sidecar: one.restart_policy == "Always",
        };
        Facts {
            containers: self.spec.containers.iter().map(container).collect(),
            init_containers: self.spec.init_containers.iter().map(container).collect(),
            generation: self.metadata.generation,
            may_finish: self.may_finish(),
        }
    }
}

/// The conditions of a pod beside PodScheduled, which is the scheduler's.
const CONDITIONS: [&str; 4] =
    ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

impl Facts {
    /// The status of a pod all of whose containers run.
    pub fn running(&self, uid: &str, address: Ipv4Addr, host: &str, now: Timestamp) -> Value {
        let now = text(now);
        let runs = json!({"running": {"startedAt": now}});
        let conditions: Vec<Value> = CONDITIONS
            .iter()
            .map(|type_| condition(type_, true, None, &now, self.generation))
            .collect();
        json!({
            "phase": "Running", "observedGeneration": self.generation,
            "hostIP": host, "hostIPs": [{"ip": host}],
            "podIP": address, "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": conditions,
            "initContainerStatuses": statuses(&self.init_containers, uid, |one| {
                if one.is_sidecar { runs.clone() } else { ended("Completed", 0, &now) }
            }),
            "containerStatuses": statuses(&self.containers, uid, |_| runs.clone()),
        })
    }

    /// The status of a pod whose containers ended well.
    pub fn finished(&self, uid: &str, now: Timestamp) -> Value {
        let now = text(now);
        let ended = ended("Completed", 0, &now);
        let conditions: Vec<Value> = ["ContainersReady", "Ready"]
            .iter()
            .map(|type_| condition(type_, false, Some("PodCompleted"), &now, self.generation))
            .collect();
        json!({
            "phase": "Succeeded", "observedGeneration": self.generation,
            "conditions": conditions,
            "initContainerStatuses": statuses(&self.init_containers, uid, |_| ended.clone()),
            "containerStatuses": statuses(&self.containers, uid, |_| ended.clone()),
        })
    }
}

fn condition(type_: &str, holds: bool, reason: Option<&str>, now: &str, generation: i64) -> Value {
    let status = if holds { "True" } else { "False" };
    let mut condition = json!({"type": type_, "status": status, "lastTransitionTime": now,
        "observedGeneration": generation});
    if let Some(reason) = reason {
        condition["reason"] = reason.into();
    }
    condition
}

fn ended(reason: &str, exit_code: i32, now: &str) -> Value {
    json!({"terminated": {"exitCode": exit_code, "reason": reason, "startedAt": now,
        "finishedAt": now}})
}

fn statuses(
    containers: &[Container],
    uid: &str,
    state: impl Fn(&Container) -> Value,
) -> Vec<Value> {
    let status = |one: &Container| {
        let state = state(one);
        let runs = state.get("running").is_some();
        json!({
            "name": one.name, "image": one.image, "imageID": "",
            "containerID": format!("simulated://{uid}/{}", one.name),
            // Init containers that ended well are ready.
            "ready": runs || !one.is_sidecar && state["terminated"]["exitCode"] == 0,
            "started": runs, "restartCount": 0, "state": state,
        })
    };
    containers.iter().map(status).collect()
}

fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
