//! When a container's lifecycle hooks are due, and what follows from them: a part of the pod's
//! state machine ([`super::pod_state`]). Pure; [`super::hooks`] performs them.
//!
//! ```text
//!   started ─▶ postStart ─passed─▶ probed, told as Running
//!                        └failed─▶ stopped as below, started again by policy
//!   to be stopped ─▶ preStop ─ended, or out of time─▶ Stop with what is left, 2 s at least
//! ```
//!
//! What a hook takes counts against the grace period. Containers wait for no other's preStop hook:
//! those of all, sidecars too, begin when the pod begins to end. Main containers start one after
//! the other as far as hooks go: kubelet starts none while an earlier one's postStart hook is under
//! way, which people rely on.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer,
//! killContainer).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::container_state::{ContainerState, Doom, Run, Running};
use super::pod_state::{PodState, plus};
use super::pod_step::{Action, Step};

/// What a container gets to end once its preStop hook took the grace period
/// (minimumGracePeriodInSeconds).
const LEAST_GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    PostStart,
    PreStop,
}

/// How far a container's postStart hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostStart {
    Due,
    UnderWay,
    /// Or there is none.
    Over,
}

/// How far its preStop hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreStop {
    /// Or there is none.
    NotBegun,
    /// The container is stopped then, whatever becomes of the hook.
    UnderWay { until: Timestamp },
    /// What was left of the grace period ends then.
    Ended { until: Timestamp },
    /// It was told to stop, and is not killed before.
    Stopped { not_before: Timestamp },
}

/// What a container asks for.
pub fn handler(container: &Container, hook: Hook) -> Option<&LifecycleHandler> {
    let lifecycle = container.lifecycle.as_ref()?;
    match hook {
        Hook::PostStart => lifecycle.post_start.as_ref(),
        Hook::PreStop => lifecycle.pre_stop.as_ref(),
    }
}

impl ContainerState {
    /// It runs, and its postStart hook is not through: to others it is still being made.
    pub fn waits_for_hook(&self) -> bool {
        let waits =
            |running: &Running| running.post_start != PostStart::Over && running.stopping.is_none();
        self.running().is_some_and(waits)
    }

    /// It holds back those that start after it.
    pub(super) fn holds_back(&self) -> bool {
        self.waits_for_hook() || matches!(self.run, Run::Starting { .. })
    }
}

impl PodState {
    pub(super) fn has_hook(&self, container: &str, hook: Hook) -> bool {
        self.container_spec(container).is_some_and(|spec| handler(spec, hook).is_some())
    }

    /// Begins the postStart hook of a container that was just started.
    pub(super) fn begin_post_start(&mut self, index: usize, step: &mut Step) {
        let container = &mut self.containers[index];
        if let Run::Running(running) = &mut container.run
            && running.post_start == PostStart::Due
        {
            running.post_start = PostStart::UnderWay;
            let (container, hook) = (container.name.clone(), Hook::PostStart);
            step.actions.push(Action::Hook { container, hook });
        }
    }

    pub(super) fn on_hook_ended(&mut self, id: &str, hook: Hook, passed: bool) {
        let Some(container) = self.by_id(id) else { return };
        let name = container.name.clone();
        let (no_startup, no_readiness) = self.unprobed(&name);
        let Some(container) = self.by_id(id) else { return };
        let Run::Running(running) = &mut container.run else { return };
        match hook {
            Hook::PostStart if running.post_start == PostStart::UnderWay => {
                running.post_start = PostStart::Over;
                if passed {
                    (running.started, running.ready) = (no_startup, no_readiness);
                } else {
                    running.doomed = Some(Doom::PostStart);
                }
            }
            Hook::PostStart => {}
            Hook::PreStop => {
                if let PreStop::UnderWay { until } = running.pre_stop {
                    running.pre_stop = PreStop::Ended { until };
                }
            }
        }
    }

    /// Whether a container has no startup probe, and no readiness probe.
    pub(super) fn unprobed(&self, name: &str) -> (bool, bool) {
        match self.container_spec(name) {
            Some(spec) => (spec.startup_probe.is_none(), spec.readiness_probe.is_none()),
            None => (true, true),
        }
    }

    /// Begins the preStop hooks of all that runs, when the pod begins to end.
    pub(super) fn begin_pre_stops(&mut self, deadline: Timestamp, now: Timestamp, step: &mut Step) {
        for index in 0..self.containers.len() {
            let running = self.containers[index].running();
            if running.is_some_and(|r| r.stopping.is_none() && r.pre_stop == PreStop::NotBegun) {
                self.waits_for_pre_stop(index, deadline, now, step);
            }
        }
    }

    /// Begins or hastens a container's preStop hook; whether it is still to be waited for.
    fn waits_for_pre_stop(
        &mut self,
        index: usize,
        until: Timestamp,
        now: Timestamp,
        step: &mut Step,
    ) -> bool {
        let name = self.containers[index].name.clone();
        let has_hook = self.has_hook(&name, Hook::PreStop);
        let Run::Running(running) = &mut self.containers[index].run else { return false };
        let until = match running.pre_stop {
            PreStop::NotBegun if has_hook && now < until => {
                step.actions.push(Action::Hook { container: name, hook: Hook::PreStop });
                until
            }
            PreStop::UnderWay { until: before } => until.min(before),
            _ => return false,
        };
        if now < until {
            running.pre_stop = PreStop::UnderWay { until };
            step.wake(until);
            return true;
        }
        running.pre_stop = PreStop::Ended { until };
        false
    }

    /// Stops a container within this grace, after its preStop hook.
    pub(super) fn stop(&mut self, index: usize, grace: Duration, now: Timestamp, step: &mut Step) {
        if self.waits_for_pre_stop(index, plus(now, grace), now, step) {
            return;
        }
        // Who deletes with no grace at all wants it gone now.
        let forced = self.ending.as_ref().is_some_and(|ending| ending.grace.is_zero());
        let container = &mut self.containers[index];
        let Run::Running(running) = &mut container.run else { return };
        let mut by = plus(now, grace);
        match running.pre_stop {
            PreStop::Ended { until } => {
                let not_before = plus(now, LEAST_GRACE);
                by = by.min(until);
                running.pre_stop = PreStop::Stopped { not_before };
                if !forced {
                    by = by.max(not_before);
                }
            }
            PreStop::Stopped { not_before } if !forced => by = by.max(not_before),
            _ => {}
        }
        let grace = Duration::try_from(by.duration_since(now)).unwrap_or(Duration::ZERO);
        running.stopping = Some(by);
        step.actions.push(Action::Stop { container: container.name.clone(), grace });
    }

    /// Whether a container has to be told to stop, or to stop sooner.
    pub(super) fn is_to_stop(&self, running: &Running, deadline: Timestamp) -> bool {
        let forced = self.ending.as_ref().is_some_and(|ending| ending.grace.is_zero());
        let deadline = match running.pre_stop {
            PreStop::Stopped { not_before } if !forced => deadline.max(not_before),
            _ => deadline,
        };
        running.stopping.is_none_or(|at| at > deadline)
    }
}
