//! What the node knows about one container of a pod: its attempts, how they ended, and what it waits
//! for. A part of the pod's state machine, which [`super::pod_state`] draws. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated};
use sha2::{Digest, Sha256};

use super::pod_events::ProbeKind;
use super::pod_hooks::{PostStart, PreStop};
use super::pod_state::plus;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that is always restarted and outlives the main ones.
    Sidecar,
    Main,
    /// An ephemeral container: it runs once, beside the others, and nobody waits for it.
    Debug,
}

#[derive(Clone, Debug)]
pub struct ContainerState {
    pub name: String,
    pub role: Role,
    /// The number of the attempt that runs or ran last; `restartCount`.
    pub attempt: i32,
    pub run: Run,
    /// How that attempt ended.
    pub exited: Option<ContainerStateTerminated>,
    /// How the attempt before ended.
    pub last: Option<ContainerStateTerminated>,
    /// Why the last try to start failed.
    pub failure: Option<Failure>,
    /// The wait before the next restart.
    pub restart_wait: Duration,
    /// That wait, or the one before the next pull, was told as an event.
    pub back_off_told: bool,
    /// It was started again after a wait: until then nothing is told of it, unless it ends.
    pub quiet_until: Option<Timestamp>,
    /// It was stopped because its image changed: it runs again whatever the policy.
    pub renew: bool,
    /// It was ended because a probe failed: however well it ended, policy OnFailure starts it again.
    pub failed_probe: bool,
    /// `name@sha256:…` of the running artifact.
    pub image_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    Idle,
    Starting { image: String },
    Running(Running),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub started_at: Timestamp,
    /// The image as the spec named it at the start.
    pub image: String,
    /// It serves others, so it gets time to drain.
    pub serves: bool,
    /// The startup probe passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// The guest says that it is ready, or was not asked to say.
    pub says_ready: bool,
    /// It is to be stopped, and started again by policy.
    pub doomed: Option<Doom>,
    pub post_start: PostStart,
    pub pre_stop: PreStop,
    /// It was told to stop and is killed at this time.
    pub stopping: Option<Timestamp>,
}

/// Why a container is stopped though its pod goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    /// A probe failed.
    Probe(ProbeKind),
    /// Its postStart hook failed.
    PostStart,
}

/// Why something did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A Waiting reason of Kubernetes: `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
    /// The wait until the next try; `None`: another try cannot help.
    pub wait: Option<Duration>,
}

/// The id of one attempt of a container: 64 hexadecimal digits.
pub fn container_id(pod_uid: &str, container: &str, attempt: i32) -> String {
    hex::encode(Sha256::digest(format!("{pod_uid}/{container}/{attempt}")))
}

impl ContainerState {
    pub(super) fn new(container: &Container, role: Role) -> ContainerState {
        ContainerState {
            name: container.name.clone(),
            role,
            attempt: 0,
            run: Run::Idle,
            exited: None,
            last: None,
            failure: None,
            restart_wait: Duration::ZERO,
            back_off_told: false,
            quiet_until: None,
            renew: false,
            failed_probe: false,
            image_id: String::new(),
        }
    }

    /// The number that the next attempt gets.
    pub fn next_attempt(&self) -> i32 {
        self.attempt + i32::from(self.exited.is_some())
    }

    pub fn is_idle(&self) -> bool {
        self.run == Run::Idle
    }

    pub fn running(&self) -> Option<&Running> {
        match &self.run {
            Run::Running(running) => Some(running),
            _ => None,
        }
    }

    /// When an ended container is started again, if policy says so.
    pub fn restart_at(&self) -> Option<Timestamp> {
        let finished = self.exited.as_ref()?.finished_at.as_ref()?.0;
        Some(plus(finished, self.restart_wait))
    }

    pub fn succeeded(&self) -> bool {
        self.is_idle() && self.exited.as_ref().is_some_and(|exit| exit.exit_code == 0)
    }

    /// The newest attempt was started: it runs, or the try is settled.
    pub fn begun(&mut self) {
        if let Some(exited) = self.exited.take() {
            self.last = Some(exited);
            self.attempt += 1;
        }
        self.failure = None;
        self.renew = false;
        self.failed_probe = false;
    }
}
