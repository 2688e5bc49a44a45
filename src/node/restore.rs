//! Takes over what a pod's status tells of an agent before this one. Containers lived in that
//! agent's process, so what was running is lost: it counts as ended and is started again by
//! policy, as kubelet does after a restart of its machine. Pods that finished stay finished. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::container_state::{ContainerState, Role};
use super::pod_state::{Cause, PodState, Sandbox, spec};
use super::pod_status::is_terminal;

/// The exit code and reason of lost containers (kubelet's convertStatusToAPIStatus).
const LOST_CODE: i32 = 137;
const LOST_REASON: &str = "ContainerStatusUnknown";
const LOST_MESSAGE: &str = "The container could not be located when the node agent started";

/// Takes over the status that the pod's object has.
pub fn restore(state: &mut PodState, now: Timestamp) {
    let Some(status) = state.pod.status.clone() else { return };
    if let Some(at) = status.start_time {
        state.started_at = at.0;
    }
    let inits = status.init_container_statuses.unwrap_or_default();
    let mains = status.container_statuses.unwrap_or_default();
    let debug = status.ephemeral_container_statuses.unwrap_or_default();
    for status in inits.iter().chain(&mains).chain(&debug) {
        if let Some(container) = state.containers.iter_mut().find(|c| c.name == status.name) {
            restore_container(container, status, now);
        }
    }
    let phase = status.phase.unwrap_or_default();
    state.was_running = phase == "Running";
    if is_terminal(&phase) {
        state.initialized = true;
        state.sandbox = Sandbox::Gone { ip: None };
        let cause = match status.reason {
            Some(reason) if phase == "Failed" => {
                state.refused = mains.is_empty();
                Cause::Failed { reason, message: status.message.unwrap_or_default() }
            }
            _ => Cause::Finished,
        };
        state.end(cause, state.grace(), now);
    } else if !mains.is_empty() && all_ended(state) {
        // Its directory may be there still: the end tears it down.
        state.initialized = true;
        state.end(Cause::Finished, state.grace(), now);
    } else {
        run_inits_again(state);
    }
}

fn restore_container(container: &mut ContainerState, status: &ContainerStatus, now: Timestamp) {
    container.attempt = status.restart_count;
    container.image_id = status.image_id.clone();
    let current = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().unwrap_or_default().terminated;
    if let Some(running) = current.running {
        container.last = last;
        container.exited = Some(ContainerStateTerminated {
            container_id: status.container_id.clone(),
            exit_code: LOST_CODE,
            reason: Some(LOST_REASON.into()),
            message: Some(LOST_MESSAGE.into()),
            started_at: running.started_at,
            finished_at: Some(Time(now)),
            signal: None,
        });
    } else if let Some(exit) = current.terminated {
        container.last = last;
        container.exited = Some(exit);
    } else {
        // A waiting container that ran before: its last state is how the newest attempt ended. That
        // it waited though it ended well, its probe tells.
        container.failed_probe = last.is_some();
        container.exited = last;
    }
}

fn all_ended(state: &PodState) -> bool {
    let count = spec(&state.pod).containers.len();
    let ended = |c: &&ContainerState| {
        let code = c.exited.as_ref().map(|exit| exit.exit_code);
        c.role == Role::Main && code.is_some_and(|code| !state.restarts(c, code))
    };
    state.containers.iter().filter(ended).count() == count
}

/// Init containers run before each new life of a pod.
fn run_inits_again(state: &mut PodState) {
    for container in state.containers.iter_mut().filter(|c| c.role == Role::Init) {
        if container.exited.as_ref().is_some_and(|exit| exit.exit_code == 0) {
            container.begun();
        }
    }
}
