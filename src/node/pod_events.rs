//! What happens to a pod, taken into its state. The diagram is in [`super::pod_state`]. Pure.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

use super::container_state::{ContainerState, Doom, Failure, Role, Run, Running};
use super::pod_hooks::{Hook, PostStart, PreStop};
use super::pod_state::{Cause, PodState, Sandbox, find_container, spec};

/// The code of a container that was killed, 128 + 9.
pub(super) const KILLED_CODE: i32 = 137;

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The newest object.
    Desired(Arc<Pod>),
    /// The object is gone.
    Gone,
    SandboxReady {
        ip: IpAddr,
    },
    SandboxFailed {
        reason: String,
        message: String,
    },
    /// The node ends the pod: `Evicted`.
    Evicted {
        reason: String,
        message: String,
    },
    /// The node does not take the pod (kubelet's rejectPod).
    Refused {
        reason: String,
        message: String,
    },
    TornDown,
    Started {
        container: String,
        attempt: i32,
        image_id: String,
        serves: bool,
    },
    StartFailed {
        container: String,
        attempt: i32,
        reason: String,
        message: String,
        retry: bool,
    },
    Exited {
        id: String,
        exit: ContainerStateTerminated,
    },
    Probe {
        id: String,
        kind: ProbeKind,
        passed: bool,
    },
    /// The guest said of itself whether it is ready.
    Readiness {
        id: String,
        ready: bool,
    },
    /// A lifecycle hook is through.
    HookEnded {
        id: String,
        hook: Hook,
        passed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl PodState {
    /// Takes in what happened.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Desired(pod) => self.on_desired(pod),
            Event::Gone => self.end(Cause::Gone, Duration::ZERO, now),
            Event::SandboxReady { ip } => {
                if self.sandbox == Sandbox::SettingUp {
                    self.sandbox = Sandbox::Ready { ip };
                    self.sandbox_failure = None;
                }
            }
            Event::SandboxFailed { reason, message } => {
                if self.sandbox == Sandbox::SettingUp {
                    self.sandbox_failure = Some(self.failure(None, reason, message, true, now));
                    self.sandbox = Sandbox::Absent;
                }
            }
            Event::Evicted { reason, message } => {
                self.end(Cause::Failed { reason, message }, Duration::ZERO, now);
            }
            Event::Refused { reason, message } => {
                self.refused = true;
                self.end(Cause::Failed { reason, message }, Duration::ZERO, now);
            }
            Event::TornDown => self.sandbox = Sandbox::Gone { ip: self.ip() },
            Event::Started { container, attempt, image_id, serves } => {
                self.on_started(&container, attempt, image_id, serves, now);
            }
            Event::StartFailed { container, attempt, reason, message, retry } => {
                let wait = self.failure(Some(&container), reason, message, retry, now);
                if let Some(c) = self.starting(&container, attempt) {
                    c.run = Run::Idle;
                    c.failure = Some(wait);
                }
            }
            Event::Exited { id, exit } => self.on_exited(&id, exit),
            Event::Probe { id, kind, passed } => self.on_probe(&id, kind, passed),
            Event::Readiness { id, ready } => self.on_readiness(&id, ready),
            Event::HookEnded { id, hook, passed } => self.on_hook_ended(&id, hook, passed),
        }
    }

    /// A changed image is a new chance for a container that could not start.
    fn on_desired(&mut self, pod: Arc<Pod>) {
        let old = std::mem::replace(&mut self.pod, pod);
        for index in 0..self.containers.len() {
            if self.containers[index].role == Role::Debug {
                continue;
            }
            let name = &self.containers[index].name;
            let before = find_container(spec(&old), name).and_then(|c| c.image.as_ref());
            if before != self.container_spec(name).and_then(|c| c.image.as_ref()) {
                self.containers[index].failure = None;
                self.containers[index].restart_wait = Duration::ZERO;
            }
        }
        self.add_debug();
    }

    fn starting(&mut self, name: &str, attempt: i32) -> Option<&mut ContainerState> {
        let starting = |c: &&mut ContainerState| {
            c.name == name && matches!(c.run, Run::Starting { .. }) && c.next_attempt() == attempt
        };
        self.containers.iter_mut().find(starting)
    }

    fn on_started(
        &mut self,
        name: &str,
        attempt: i32,
        image_id: String,
        serves: bool,
        now: Timestamp,
    ) {
        let (no_startup, no_readiness) = self.unprobed(name);
        let post_start = match self.has_hook(name, Hook::PostStart) {
            true => PostStart::Due,
            false => PostStart::Over,
        };
        let is_up = post_start == PostStart::Over;
        let Some(container) = self.starting(name, attempt) else {
            // It ended first: that it ran, and what, is known all the same.
            let ended = |c: &&mut ContainerState| c.name == name && c.attempt == attempt;
            let ended = self.containers.iter_mut().filter(|c| c.exited.is_some()).find(ended);
            if let Some(container) = ended {
                container.image_id = image_id;
            }
            return;
        };
        let Run::Starting { image } = &container.run else { return };
        let image = image.clone();
        container.begun();
        container.image_id = image_id;
        container.run = Run::Running(Running {
            started_at: now,
            image,
            serves,
            started: is_up && no_startup,
            ready: is_up && no_readiness,
            says_ready: true,
            doomed: None,
            post_start,
            pre_stop: PreStop::NotBegun,
            stopping: None,
        });
    }

    fn on_exited(&mut self, id: &str, mut exit: ContainerStateTerminated) {
        let timing = self.timing;
        let Some(container) = self.by_id(id) else { return };
        if container.is_idle() {
            return;
        }
        let doomed = container.running().and_then(|running| running.doomed);
        if doomed == Some(Doom::PostStart) && exit.exit_code == 0 {
            // However well it ended, it never came up.
            exit.exit_code = KILLED_CODE;
            exit.reason = Some("Error".to_string());
        }
        if matches!(container.run, Run::Starting { .. }) {
            // It ended before its start was reported.
            container.begun();
        }
        let ran = match (&exit.started_at, &exit.finished_at) {
            (Some(start), Some(end)) => end.0.duration_since(start.0),
            _ => SignedDuration::ZERO,
        };
        let reset = SignedDuration::try_from(timing.restart_reset).unwrap_or(SignedDuration::MAX);
        if ran >= reset {
            container.restart_wait = Duration::ZERO;
        }
        container.run = Run::Idle;
        container.failed_probe = matches!(doomed, Some(Doom::Probe(_)));
        container.exited = Some(exit);
    }

    fn on_probe(&mut self, id: &str, kind: ProbeKind, passed: bool) {
        let Some(container) = self.by_id(id) else { return };
        let Run::Running(running) = &mut container.run else { return };
        match (kind, passed) {
            (ProbeKind::Startup, true) => running.started = true,
            (ProbeKind::Readiness, _) => running.ready = passed,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                running.ready = false;
                running.doomed = Some(Doom::Probe(kind));
            }
        }
    }

    fn on_readiness(&mut self, id: &str, ready: bool) {
        if let Some(Run::Running(running)) = self.by_id(id).map(|container| &mut container.run) {
            running.says_ready = ready;
        }
    }

    /// The next failure of the sandbox (`None`) or a container, with a doubled wait.
    fn failure(
        &self,
        container: Option<&str>,
        reason: String,
        message: String,
        retry: bool,
        now: Timestamp,
    ) -> Failure {
        let before = match container {
            Some(name) => self.find(name).and_then(|c| c.failure.as_ref()),
            None => self.sandbox_failure.as_ref(),
        };
        let most = match reason.as_str() {
            "FailedMount" | "CreateContainerConfigError" => self.timing.retry_config_most,
            _ => self.timing.retry_most,
        };
        let wait = match before.and_then(|f| f.wait) {
            Some(wait) => (wait * 2).min(most),
            None => self.timing.retry_first,
        };
        Failure { reason, message, at: now, wait: retry.then_some(wait) }
    }
}
