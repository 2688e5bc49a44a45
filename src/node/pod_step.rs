//! One turn of the pod's state machine: from the state and the time to the next actions. The
//! diagram is in [`super::pod_state`]. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::container_state::{ContainerState, Role, Run};
use super::pod_hooks::Hook;
use super::pod_state::{Cause, PULL_ERROR_SHOWN, PodState, Sandbox, plus, spec};

/// The message of upstream's kubelet (pkg/kubelet/active_deadline.go).
pub const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// The reason of a pod that its deadline ended, and of the Event that tells of it.
pub const DEADLINE_REASON: &str = "DeadlineExceeded";

/// What the worker is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    SetUp,
    Start {
        container: String,
        attempt: i32,
    },
    /// Runs a lifecycle hook of a running container.
    Hook {
        container: String,
        hook: Hook,
    },
    /// Tells a serving container that it will be stopped: it sends its clients elsewhere.
    Drain {
        container: String,
    },
    /// Asks a running container to end within `grace`.
    Stop {
        container: String,
        grace: Duration,
    },
    /// Gives up a set-up or start that is under way.
    Cancel {
        container: Option<String>,
    },
    TearDown,
    /// Deletes the object for good.
    DeleteObject,
}

/// The outcome of one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub actions: Vec<Action>,
    /// Containers that wait before their next try, since this turn.
    pub backed_off: Vec<String>,
    /// The pod's deadline has passed, since this turn.
    pub is_overdue: bool,
    /// Look again then, even if nothing happens.
    pub wake_at: Option<Timestamp>,
    /// More is about to change: do not tell the API yet.
    pub hold_status: bool,
    /// Nothing is left of the pod on this node.
    pub done: bool,
}

impl Step {
    /// Asks for another turn at a time.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

impl PodState {
    /// Decides, and marks in the state what the returned actions begin.
    pub fn step(&mut self, now: Timestamp) -> Step {
        let mut step = Step::default();
        self.note_endings(now, &mut step);
        if self.ending.is_none() {
            self.advance(now, &mut step);
        }
        if self.ending.is_some() {
            self.bring_to_end(now, &mut step);
        } else {
            self.hold_short_start(now, &mut step);
            self.hold_short_restarts(now, &mut step);
        }
        step
    }

    /// Deletion and the deadline.
    fn note_endings(&mut self, now: Timestamp, step: &mut Step) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            // A second delete may shorten the grace period.
            self.end(Cause::Deleted, self.grace(), now);
        }
        let Some(seconds) = spec(&self.pod).active_deadline_seconds else { return };
        if self.ending.is_some() {
            return;
        }
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let deadline = plus(self.started_at, Duration::from_secs(seconds));
        if now >= deadline {
            step.is_overdue = true;
            let reason = DEADLINE_REASON.to_string();
            let cause = Cause::Failed { reason, message: DEADLINE_MESSAGE.to_string() };
            self.end(cause, self.grace(), now);
        } else {
            step.wake(deadline);
        }
    }

    /// Sets up, then init containers in order, then the main ones.
    fn advance(&mut self, now: Timestamp, step: &mut Step) {
        match self.sandbox {
            Sandbox::Absent => {
                let failure = self.sandbox_failure.as_ref();
                match failure.and_then(|f| f.wait.map(|wait| plus(f.at, wait))) {
                    Some(at) if now < at => step.wake(at),
                    _ => {
                        self.sandbox = Sandbox::SettingUp;
                        step.actions.push(Action::SetUp);
                    }
                }
            }
            Sandbox::Ready { .. } => self.advance_containers(now, step),
            Sandbox::SettingUp | Sandbox::TearingDown { .. } | Sandbox::Gone { .. } => {}
        }
    }

    fn advance_containers(&mut self, now: Timestamp, step: &mut Step) {
        for index in 0..self.containers.len() {
            if self.containers[index].role == Role::Debug {
                self.keep(index, now, step);
            }
        }
        for index in 0..self.containers.len() {
            let role = self.containers[index].role;
            if matches!(role, Role::Main | Role::Debug) {
                continue;
            }
            if role == Role::Init && self.initialized {
                continue;
            }
            let through = self.keep(index, now, step);
            if !through && !self.initialized {
                if self.failed_for_good(index) {
                    self.end(Cause::Finished, self.grace(), now);
                }
                return;
            }
        }
        self.initialized = true;
        let (mut finished, mut held_back) = (true, false);
        for index in 0..self.containers.len() {
            if self.containers[index].role != Role::Main {
                continue;
            }
            if !(held_back && self.containers[index].is_idle()) {
                self.keep(index, now, step);
            }
            finished &= self.ended_for_good(index);
            let container = &self.containers[index];
            held_back |= container.holds_back() && self.has_hook(&container.name, Hook::PostStart);
        }
        if finished {
            self.end(Cause::Finished, self.grace(), now);
        }
    }

    /// An init container failed and policy does not repeat it.
    fn failed_for_good(&self, index: usize) -> bool {
        let container = &self.containers[index];
        let code = container.exited.as_ref().map(|exit| exit.exit_code);
        container.is_idle()
            && code.is_some_and(|code| code != 0 && !self.runs_again(container, code))
    }

    fn ended_for_good(&self, index: usize) -> bool {
        let container = &self.containers[index];
        let exit = container.exited.as_ref();
        container.is_idle() && exit.is_some_and(|exit| !self.runs_again(container, exit.exit_code))
    }

    /// Keeps one container as its role wants it. Answers whether the next init container may go.
    fn keep(&mut self, index: usize, now: Timestamp, step: &mut Step) -> bool {
        let wanted = self.container_spec(&self.containers[index].name);
        let wanted = wanted.and_then(|c| c.image.clone()).unwrap_or_default();
        let container = &self.containers[index];
        match &container.run {
            Run::Starting { image } => {
                if *image != wanted {
                    // The image was changed while the old one is pulled.
                    let name = Some(container.name.clone());
                    step.actions.push(Action::Cancel { container: name });
                    self.containers[index].run = Run::Idle;
                    self.containers[index].failure = None;
                    self.begin(index, wanted, step);
                }
                false
            }
            Run::Running(running) => {
                let (started, stale) = (running.started, running.image != wanted);
                let grace = match running.doomed {
                    Some(doom) => Some(self.grace_after(doom, &container.name)),
                    None => stale.then(|| self.grace()),
                };
                match grace {
                    Some(grace) if running.stopping.is_none() => {
                        self.containers[index].renew = stale;
                        self.stop(index, grace, now, step);
                    }
                    Some(_) => {}
                    None => self.begin_post_start(index, step),
                }
                container_may_pass(&self.containers[index], started)
            }
            Run::Idle => self.keep_idle(index, wanted, now, step),
        }
    }

    fn keep_idle(&mut self, index: usize, image: String, now: Timestamp, step: &mut Step) -> bool {
        let container = &self.containers[index];
        if let Some(failure) = &container.failure {
            match failure.wait.map(|wait| plus(failure.at, wait)) {
                None => return false,
                Some(at) if now < at => {
                    step.wake(at);
                    if failure.reason == "ErrImagePull" {
                        let shown = plus(failure.at, PULL_ERROR_SHOWN);
                        if now < shown {
                            step.wake(shown);
                        }
                        self.back_off(index, step);
                    }
                    return false;
                }
                Some(_) => {}
            }
        } else if let Some(exit) = &container.exited
            && !container.renew
        {
            if !self.restarts(container, exit.exit_code) {
                return exit.exit_code == 0;
            }
            match container.restart_at() {
                Some(at) if now < at => {
                    step.wake(at);
                    self.back_off(index, step);
                    return false;
                }
                _ => {
                    let quiet_until = plus(now, self.timing.pending_status_delay);
                    let container = &mut self.containers[index];
                    let waited = !container.restart_wait.is_zero();
                    container.quiet_until = waited.then_some(quiet_until);
                    let wait = &mut container.restart_wait;
                    *wait = match *wait {
                        Duration::ZERO => self.timing.restart_first,
                        wait => (wait * 2).min(self.timing.restart_most),
                    };
                }
            }
        }
        self.begin(index, image, step);
        false
    }

    fn begin(&mut self, index: usize, image: String, step: &mut Step) {
        let container = &mut self.containers[index];
        let attempt = container.next_attempt();
        container.run = Run::Starting { image };
        container.back_off_told = false;
        step.actions.push(Action::Start { container: container.name.clone(), attempt });
    }

    /// The wait is told once.
    fn back_off(&mut self, index: usize, step: &mut Step) {
        let container = &mut self.containers[index];
        if !std::mem::replace(&mut container.back_off_told, true) {
            step.backed_off.push(container.name.clone());
        }
    }

    /// Drain, stop the main containers, then the sidecars, tear down, delete.
    fn bring_to_end(&mut self, now: Timestamp, step: &mut Step) {
        let Some(ending) = self.ending.clone() else { return };
        self.cancel_starts(step);
        let deadline = plus(ending.since, ending.grace);
        self.begin_pre_stops(deadline, now, step);
        let serving = |c: &ContainerState| {
            c.running().is_some_and(|running| running.serves && running.stopping.is_none())
        };
        if ending.cause == Cause::Deleted && self.containers.iter().any(serving) {
            let until = plus(ending.since, self.timing.drain.min(ending.grace / 2));
            if now < until {
                self.drain(step);
                step.wake(until);
                return;
            }
        }
        if self.stop_all(deadline, now, step) {
            return;
        }
        match self.sandbox {
            // An agent before this one may have set it up.
            Sandbox::Absent => {
                step.actions.push(Action::TearDown);
                self.sandbox = Sandbox::TearingDown { ip: None };
            }
            Sandbox::SettingUp => {
                step.actions.push(Action::Cancel { container: None });
                step.actions.push(Action::TearDown);
                self.sandbox = Sandbox::TearingDown { ip: None };
            }
            Sandbox::Ready { ip } => {
                step.actions.push(Action::TearDown);
                self.sandbox = Sandbox::TearingDown { ip: Some(ip) };
            }
            Sandbox::TearingDown { .. } | Sandbox::Gone { .. } => {}
        }
        if matches!(self.sandbox, Sandbox::TearingDown { .. }) {
            step.hold_status = true;
            return;
        }
        match ending.cause {
            Cause::Deleted if !self.delete_asked => {
                self.delete_asked = true;
                step.actions.push(Action::DeleteObject);
            }
            Cause::Gone => step.done = true,
            Cause::Deleted | Cause::Finished | Cause::Failed { .. } => {}
        }
    }

    /// Tells the serving containers, once.
    fn drain(&mut self, step: &mut Step) {
        let Some(ending) = self.ending.as_mut().filter(|ending| !ending.draining) else { return };
        ending.draining = true;
        for container in &self.containers {
            if container.running().is_some_and(|running| running.serves) {
                step.actions.push(Action::Drain { container: container.name.clone() });
            }
        }
    }

    fn cancel_starts(&mut self, step: &mut Step) {
        for container in &mut self.containers {
            if matches!(container.run, Run::Starting { .. }) {
                container.run = Run::Idle;
                let name = Some(container.name.clone());
                step.actions.push(Action::Cancel { container: name });
            }
        }
    }

    /// Stops what runs: all at once with no grace, else sidecars after the others, the last one
    /// first. Answers whether something still runs.
    fn stop_all(&mut self, deadline: Timestamp, now: Timestamp, step: &mut Step) -> bool {
        let at_once = now >= deadline;
        let grace = Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO);
        let mut live = false;
        for role in [Role::Debug, Role::Main, Role::Init, Role::Sidecar] {
            for index in (0..self.containers.len()).rev() {
                let container = &self.containers[index];
                let Some(running) = container.running().filter(|_| container.role == role) else {
                    continue;
                };
                if role == Role::Sidecar && live && !at_once {
                    return true;
                }
                live = true;
                if self.is_to_stop(running, deadline) {
                    self.stop(index, grace, now, step);
                }
            }
        }
        live
    }

    /// A container that ends right after its back-off is told in one write: a crash loop costs the
    /// API no more than its back-off.
    fn hold_short_restarts(&self, now: Timestamp, step: &mut Step) {
        let live = self.containers.iter().filter(|c| !c.is_idle());
        for until in live.filter_map(|c| c.quiet_until).filter(|until| now < *until) {
            step.hold_status = true;
            step.wake(until);
        }
    }

    /// A pod that starts at once is told in one write.
    fn hold_short_start(&self, now: Timestamp, step: &mut Step) {
        let until = plus(self.seen_at, self.timing.pending_status_delay);
        let fresh = |c: &ContainerState| {
            (c.running().is_none() || c.waits_for_hook())
                && c.exited.is_none()
                && c.failure.is_none()
        };
        let quiet = self.sandbox_failure.is_none() && self.containers.iter().all(fresh);
        if quiet && now < until {
            step.hold_status = true;
            step.wake(until);
        }
    }
}

/// Whether the init container after a running one may start.
fn container_may_pass(container: &ContainerState, started: bool) -> bool {
    container.role == Role::Sidecar && started
}
