//! A Pod's row: the one-word status that people read (kubectl's printers, printPod).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
use serde_json::Value;

use super::checks::or_none;
use crate::api::duration;
use crate::api::table::{self, Column};

pub const COLUMNS: &[Column] = &[
    table::NAME,
    Column::new("Ready", "string", "How many containers accept traffic, of how many."),
    Column::new("Status", "string", "The aggregate status of the containers in this pod."),
    Column::new("Restarts", "string", "How often containers were restarted, and when last."),
    table::AGE,
    Column::wide("IP", "string", "The pod's address."),
    Column::wide("Node", "string", "The node that the pod runs on."),
    Column::wide("Nominated Node", "string", "The node that is being made free for the pod."),
    Column::wide("Readiness Gates", "string", "How many additional conditions are true."),
];

pub fn row(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let summary = summarize(pod, &spec, &status);
    let Restarts { count, last } = summary.restarts;
    let restarts = match last {
        Some(time) if count > 0 => {
            let ago = duration::human(now.duration_since(time).as_secs());
            format!("{count} ({ago} ago)")
        }
        _ => count.to_string(),
    };
    let ip = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.as_str());
    vec![
        table::name(&pod.metadata),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        table::age(&pod.metadata, now),
        or_none(ip).into(),
        or_none(spec.node_name.as_deref()).into(),
        or_none(status.nominated_node_name.as_deref()).into(),
        readiness_gates(&spec, &status).into(),
    ]
}

/// The Status cell alone: `Running`, `Init:0/1`, `CrashLoopBackOff`, `Terminating`…
pub fn reason(pod: &Pod) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    summarize(pod, &spec, &status).reason
}

#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

/// How often containers were restarted, and when last.
#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count = self.count.saturating_add(container.restart_count);
        let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let finished = last.and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        self.last = self.last.max(finished);
    }
}

fn summarize(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
    let phase = status.phase.clone().unwrap_or_default();
    let mut summary = Summary {
        reason: status.reason.clone().filter(|r| !r.is_empty()).unwrap_or(phase.clone()),
        total: spec.containers.len() + sidecars(spec).count(),
        ..Summary::default()
    };
    let mut conditions = status.conditions.iter().flatten();
    if conditions.any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some(GATED)) {
        summary.reason = GATED.into();
    }
    let mut of_sidecars = Restarts::default();
    let initializing = init_containers(&mut summary, &mut of_sidecars, spec, status);
    if !initializing || has_condition(status, "Initialized") {
        summary.restarts = of_sidecars;
        main_containers(&mut summary, status);
    }
    // What failed has not completed, however well its containers ended: a node that lost touch with
    // the cluster ends its pods. Upstream shows the containers' word here.
    let reason = status.reason.as_deref().filter(|reason| !reason.is_empty());
    if let Some(reason) = reason.filter(|_| phase == "Failed" && summary.reason == COMPLETED) {
        summary.reason = reason.into();
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.reason = "Unknown".into();
        } else if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
    }
    summary
}

const GATED: &str = "SchedulingGated";
const COMPLETED: &str = "Completed";

/// The names of the init containers that run beside the others.
fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let inits = spec.init_containers.iter().flatten();
    let sidecars = inits.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    sidecars.map(|one| one.name.as_str())
}

/// True if an init container is still to finish, or a sidecar to start; the reason then says which, or
/// why.
fn init_containers(
    summary: &mut Summary,
    of_sidecars: &mut Restarts,
    spec: &PodSpec,
    status: &PodStatus,
) -> bool {
    let total = spec.init_containers.as_ref().map_or(0, Vec::len);
    for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
        summary.restarts.add(container);
        let is_sidecar = sidecars(spec).any(|name| name == container.name);
        if is_sidecar {
            of_sidecars.add(container);
        }
        let ContainerState { terminated, waiting, .. } =
            container.state.clone().unwrap_or_default();
        let waiting = waiting.and_then(|w| w.reason).filter(|r| !r.is_empty());
        summary.reason = match (terminated, waiting) {
            (Some(terminated), _) if terminated.exit_code == 0 => continue,
            _ if is_sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            (Some(terminated), _) => format!("Init:{}", end_reason(&terminated)),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{i}/{total}"),
        };
        return true;
    }
    false
}

fn main_containers(summary: &mut Summary, status: &PodStatus) {
    let mut has_running = false;
    // The first container's reason wins, so it is looked at last.
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let ContainerState { running, terminated, waiting } =
            container.state.clone().unwrap_or_default();
        let waiting = waiting.and_then(|w| w.reason).filter(|r| !r.is_empty());
        match (waiting, terminated) {
            (Some(reason), _) => summary.reason = reason,
            (None, Some(terminated)) => summary.reason = end_reason(&terminated),
            (None, None) if container.ready && running.is_some() => {
                has_running = true;
                summary.ready += 1;
            }
            _ => {}
        }
    }
    // A pod of which one container ended well and another runs is still running.
    if summary.reason == COMPLETED && has_running {
        let ready = has_condition(status, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}

/// The given reason, or `Signal:9`, or `ExitCode:3`.
fn end_reason(terminated: &ContainerStateTerminated) -> String {
    match (terminated.reason.as_deref(), terminated.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.into(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", terminated.exit_code),
    }
}

fn has_condition(status: &PodStatus, name: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == name && c.status == "True")
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates.iter().filter(|g| has_condition(status, &g.condition_type)).count();
    format!("{met}/{}", gates.len())
}
