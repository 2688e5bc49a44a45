//! Renders a pod's state as PodStatus, and merges it with what others keep there. Pure.
//! Source of the rules: kubelet's `generateAPIPodStatus`, `getPhase` and status/generate.go.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::container_state::{ContainerState, Failure, Role, Running};
use super::pod_state::{Cause, PULL_ERROR_SHOWN, PodState, Sandbox, plus, spec};
use super::termination;

/// Roles of what is told as init containers.
const INITS: &[Role] = &[Role::Init, Role::Sidecar];
/// The conditions that the node owns; others' are kept as they are.
const OWNED: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// A time as the API carries it: whole seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The part of the status that the node owns.
pub fn render(state: &PodState, host_ip: &str, now: Timestamp) -> PodStatus {
    let phase = phase(state);
    let ip = state.ip().map(|ip| ip.to_string());
    let of = |roles: &[Role]| -> Vec<ContainerStatus> {
        let picked = state.containers.iter().filter(|c| roles.contains(&c.role));
        picked.map(|c| container_status(state, c, now)).collect()
    };
    let (inits, debug) = (of(INITS), of(&[Role::Debug]));
    let (mut reason, mut message) = (None, None);
    if let Some(ending) = &state.ending
        && let Cause::Failed { reason: why, message: text } = &ending.cause
    {
        (reason, message) = (Some(why.clone()), Some(text.clone()));
    }
    let mut status = PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions(state, phase)),
        container_statuses: (!state.refused).then(|| of(&[Role::Main])),
        ephemeral_container_statuses: (!debug.is_empty()).then_some(debug),
        init_container_statuses: (!inits.is_empty() && !state.refused).then_some(inits),
        host_ip: Some(host_ip.into()),
        host_ips: Some(vec![HostIP { ip: host_ip.into() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(time(state.started_at)),
        observed_generation: state.pod.metadata.generation,
        reason,
        message,
        ..PodStatus::default()
    };
    termination::bound(&mut status);
    status
}

/// The address that a pod's status names and that is still the pod's: it did not end, and has an
/// address of its own.
pub fn address_to_keep(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let ended = status.phase.as_deref().is_some_and(is_terminal);
    if ended || spec(pod).host_network == Some(true) {
        return None;
    }
    status.pod_ip.as_ref()?.parse().ok()
}

/// Whether the pod ended for good.
pub fn is_terminal(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

/// A container that runs, once its postStart hook is through: before, it is still being made.
fn shown<'a>(state: &PodState, c: &'a ContainerState) -> Option<&'a Running> {
    c.running().filter(|_| state.ending.is_some() || !c.waits_for_hook())
}

fn all_stopped(state: &PodState) -> bool {
    state.containers.iter().all(ContainerState::is_idle)
}

/// Whether the pod is at its end and nothing of it runs any more.
pub fn has_ended(state: &PodState) -> bool {
    state.ending.is_some() && all_stopped(state)
}

fn phase(state: &PodState) -> &'static str {
    if let Some(ending) = &state.ending
        && has_ended(state)
    {
        return match ending.cause {
            Cause::Failed { .. } => "Failed",
            _ => ended_phase(state),
        };
    }
    if state.was_running {
        return "Running";
    }
    if !state.initialized {
        return "Pending";
    }
    let mains = || state.containers.iter().filter(|c| c.role == Role::Main);
    let untouched =
        |c: &ContainerState| shown(state, c).is_none() && c.exited.is_none() && c.last.is_none();
    if mains().any(untouched) { "Pending" } else { "Running" }
}

/// The phase once nothing runs and nothing will: what never ran counts as failed.
fn ended_phase(state: &PodState) -> &'static str {
    let mut mains = state.containers.iter().filter(|c| c.role == Role::Main);
    if mains.all(ContainerState::succeeded) { "Succeeded" } else { "Failed" }
}

fn container_status(state: &PodState, c: &ContainerState, now: Timestamp) -> ContainerStatus {
    let image = state.container_spec(&c.name).and_then(|spec| spec.image.clone());
    let (current, last) = container_states(state, c, now);
    let has_run = shown(state, c).is_some() || c.exited.is_some();
    ContainerStatus {
        name: c.name.clone(),
        image: image.unwrap_or_default(),
        image_id: c.image_id.clone(),
        container_id: has_run.then(|| format!("wasmtime://{}", state.container_id(c))),
        restart_count: c.attempt,
        ready: is_ready(c),
        started: Some(c.running().is_some_and(|running| running.started)),
        state: Some(current),
        last_state: last.map(terminated),
        ..ContainerStatus::default()
    }
}

fn terminated(mut exit: ContainerStateTerminated) -> State {
    exit.started_at = exit.started_at.map(|at| time(at.0));
    exit.finished_at = exit.finished_at.map(|at| time(at.0));
    State { terminated: Some(exit), ..State::default() }
}

fn waiting(reason: &str, message: Option<String>) -> State {
    let waiting = ContainerStateWaiting { reason: Some(reason.into()), message };
    State { waiting: Some(waiting), ..State::default() }
}

/// The current state and the last one.
fn container_states(
    state: &PodState,
    c: &ContainerState,
    now: Timestamp,
) -> (State, Option<ContainerStateTerminated>) {
    if let Some(running) = shown(state, c) {
        let running = ContainerStateRunning { started_at: Some(time(running.started_at)) };
        return (State { running: Some(running), ..State::default() }, c.last.clone());
    }
    let before = || c.exited.clone().or_else(|| c.last.clone());
    if let Some(failure) = &c.failure {
        let (reason, message) = failure_text(failure, state, c, now);
        return (waiting(&reason, Some(message)), before());
    }
    if let Some(exited) = &c.exited {
        let again = state.ending.is_none() && state.runs_again(c, exited.exit_code);
        // The API lets no container leave the state Terminated that ended well, or of policy Never.
        let is_kept = c.renew || again && c.failed_probe && exited.exit_code == 0;
        if again && c.is_idle() && c.restart_at().is_some_and(|at| now < at) {
            let meta = &state.pod.metadata;
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                go_duration(c.restart_wait.as_secs()),
                c.name,
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                state.uid(),
            );
            return (waiting("CrashLoopBackOff", Some(message)), before());
        }
        if is_kept {
            return (waiting("ContainerCreating", None), before());
        }
        return (terminated(exited.clone()), c.last.clone());
    }
    // What waited for init containers that failed goes on waiting (kubelet's TerminatePod).
    let was_due = c.role == Role::Main && (state.initialized || !has_inits(state));
    if was_due && state.ending.is_some() && state.sandbox_is_over() {
        return (terminated(never_ran()), None);
    }
    let sandbox = state.sandbox_failure.as_ref();
    let message = sandbox.map(|f| f.message.clone());
    let waits_for_init = !state.initialized && has_inits(state);
    let reason = match sandbox {
        Some(failure) if failure.reason != "FailedMount" => failure.reason.as_str(),
        _ if waits_for_init => "PodInitializing",
        _ => "ContainerCreating",
    };
    (waiting(reason, message), None)
}

fn has_inits(state: &PodState) -> bool {
    state.containers.iter().any(|c| INITS.contains(&c.role))
}

/// `ErrImagePull` becomes `ImagePullBackOff` while the next try is waited for.
fn failure_text(
    failure: &Failure,
    state: &PodState,
    c: &ContainerState,
    now: Timestamp,
) -> (String, String) {
    if failure.reason == "ErrImagePull" && now >= plus(failure.at, PULL_ERROR_SHOWN) {
        let image = state.container_spec(&c.name).and_then(|spec| spec.image.as_deref());
        let image = image.unwrap_or_default();
        let message = format!("Back-off pulling image {image:?}: {}", failure.message);
        return ("ImagePullBackOff".into(), message);
    }
    (failure.reason.clone(), failure.message.clone())
}

/// The state of a container that never ran in a pod that ended
/// (kubelet's ContainerStatusUnknown).
fn never_ran() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container was not started before the pod was terminated".into()),
        ..ContainerStateTerminated::default()
    }
}

/// `10s`, `2m40s`: as Go prints durations.
fn go_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

impl PodState {
    fn sandbox_is_over(&self) -> bool {
        matches!(self.sandbox, Sandbox::TearingDown { .. } | Sandbox::Gone { .. })
    }
}

fn is_ready(c: &ContainerState) -> bool {
    match c.role {
        Role::Init => c.succeeded(),
        // Nobody waits for it to be.
        Role::Debug => false,
        // As probed until it is told to stop, also while the pod drains: endpoints of a pod that is
        // being deleted are not ready, but go on serving where there are no others (KEP-1669).
        Role::Sidecar | Role::Main => {
            let running = c.running().filter(|r| r.stopping.is_none());
            running.is_some_and(|r| r.started && r.ready && r.says_ready)
        }
    }
}

fn conditions(state: &PodState, phase: &str) -> Vec<PodCondition> {
    let generation = state.pod.metadata.generation;
    let condition = |type_: &str, why: Option<(&str, String)>| PodCondition {
        type_: type_.into(),
        status: if why.is_none() { "True" } else { "False" }.into(),
        reason: why.as_ref().map(|(reason, _)| reason.to_string()),
        message: why.map(|(_, message)| message).filter(|message| !message.is_empty()),
        observed_generation: generation,
        ..PodCondition::default()
    };
    let sandbox = matches!(state.sandbox, Sandbox::Ready { .. });
    let sandbox = (!sandbox).then(|| ("", String::new()));
    let containers_ready = containers_unready(state, phase);
    let ready = containers_ready.clone().or_else(|| gates_unready(state));
    let mut list = vec![
        condition(OWNED[0], sandbox),
        condition(OWNED[1], uninitialized(state, phase)),
        condition(OWNED[2], containers_ready),
        condition(OWNED[3], ready),
    ];
    list[0].reason = None;
    if phase == "Succeeded" {
        list[1].reason = Some("PodCompleted".into());
    }
    list
}

fn uninitialized(state: &PodState, phase: &str) -> Option<(&'static str, String)> {
    if state.initialized || phase == "Succeeded" || !has_inits(state) {
        return None;
    }
    let open = |c: &&ContainerState| match c.role {
        Role::Init => !c.succeeded(),
        Role::Sidecar => !c.running().is_some_and(|r| r.started),
        Role::Main | Role::Debug => false,
    };
    let names: Vec<&str> = state.containers.iter().filter(open).map(|c| c.name.as_str()).collect();
    let message = format!("containers with incomplete status: [{}]", names.join(" "));
    (!names.is_empty()).then_some(("ContainersNotInitialized", message))
}

fn containers_unready(state: &PodState, phase: &str) -> Option<(&'static str, String)> {
    match phase {
        "Succeeded" => return Some(("PodCompleted", String::new())),
        "Failed" => return Some(("PodFailed", String::new())),
        _ => {}
    }
    let counts = |role| matches!(role, Role::Sidecar | Role::Main);
    let needed = |c: &&ContainerState| counts(c.role) && !is_ready(c);
    let names: Vec<&str> =
        state.containers.iter().filter(needed).map(|c| c.name.as_str()).collect();
    let message = format!("containers with unready status: [{}]", names.join(" "));
    (!names.is_empty()).then_some(("ContainersNotReady", message))
}

/// Readiness gates are conditions that others set (core/v1 PodReadinessGate).
fn gates_unready(state: &PodState) -> Option<(&'static str, String)> {
    let gates = spec(&state.pod).readiness_gates.iter().flatten();
    let status_of = |type_: &str| {
        let conditions = state.pod.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str())
    };
    let mut messages = Vec::new();
    for gate in gates {
        let name = &gate.condition_type;
        match status_of(name) {
            Some("True") => {}
            Some(other) => messages.push(format!(
                "the status of pod readiness gate {name:?} is not \"True\", but {other}"
            )),
            None => {
                messages.push(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                ));
            }
        }
    }
    (!messages.is_empty()).then(|| ("ReadinessGatesNotReady", messages.join(", ")))
}

/// The whole status to write: what others own is kept, and a condition's transition time moves
/// only when its status does. Only readiness gates make a difference between base and state.
pub fn merge(base: Option<&PodStatus>, own: PodStatus, now: Timestamp) -> PodStatus {
    let base = base.cloned().unwrap_or_default();
    let old = base.conditions.clone().unwrap_or_default();
    let mut conditions: Vec<PodCondition> = Vec::new();
    for mut condition in own.conditions.into_iter().flatten() {
        let before = old.iter().find(|c| c.type_ == condition.type_);
        let same = before.filter(|c| c.status == condition.status);
        condition.last_transition_time =
            same.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(time(now)));
        conditions.push(condition);
    }
    let foreign = old.into_iter().filter(|c| !OWNED.contains(&c.type_.as_str()));
    conditions.extend(foreign);
    if !conditions.iter().any(|c| c.type_ == "PodScheduled") {
        conditions.push(PodCondition {
            type_: "PodScheduled".into(),
            status: "True".into(),
            last_transition_time: Some(time(now)),
            ..PodCondition::default()
        });
    }
    PodStatus {
        conditions: Some(conditions),
        allocated_resources: base.allocated_resources,
        extended_resource_claim_status: base.extended_resource_claim_status,
        nominated_node_name: None,
        qos_class: base.qos_class,
        resize: base.resize,
        resource_claim_statuses: base.resource_claim_statuses,
        resources: base.resources,
        pod_ip: own.pod_ip.or(base.pod_ip),
        pod_ips: own.pod_ips.or(base.pod_ips),
        ..own
    }
}
