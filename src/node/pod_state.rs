//! The state machine of one pod: what is known about it goes in, the next actions come out. Pure:
//! no I/O, no clock, no randomness. [`super::container_state`] is what of it is a container's;
//! [`super::pod_events`] takes events in, [`super::pod_step`] decides, [`super::pod_status`] renders
//! the state as a PodStatus; [`super::pod_worker`] performs the actions and reports what became of
//! them.
//!
//! ```text
//!   sandbox:    Absent ──SetUp──▶ SettingUp ──▶ Ready ──TearDown──▶ TearingDown ──▶ Gone
//!                  ▲  after a wait    │ failed                           (logs stay until the
//!                  └──────────────────┘                                   object is removed)
//!   container:  Idle ──Start──▶ Starting ──▶ Running ──Stop──▶ (stopping) ─┐   (hooks of it:
//!                ▲ ▲  back-off      │ failed                               │    pod_hooks.rs)
//!                │ └────────────────┘                                      │ exited
//!                └──────────── `exited` set; started again by policy ◀─────┘
//!   pod:        init containers one after another ─▶ main containers ─▶ Finished
//!               any time: deletionTimestamp ─▶ Deleted, deadline ─▶ Failed, no object ─▶ Gone;
//!               then: drain ─▶ not ready ─▶ Stop mains ─▶ Stop sidecars ─▶ TearDown ─▶ delete
//! ```
//!
//! It deliberately does not know how a container is run, what an image is, or how status is sent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::container_state::{ContainerState, Doom, Failure, Role, Run, container_id};
use super::pod_events::ProbeKind;
use crate::api::kinds::ephemeral_containers::as_container;

/// The times that decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The wait before the second restart of a container; doubles to `restart_most`.
    /// Source: kubelet's CrashLoopBackOff, 10 s to 5 min.
    pub restart_first: Duration,
    pub restart_most: Duration,
    /// A container that ran this long begins with no wait again.
    pub restart_reset: Duration,
    /// The wait after a failed try to set up or start; doubles to `retry_most`.
    pub retry_first: Duration,
    pub retry_most: Duration,
    /// Its bound where a ConfigMap, a Secret or a field is what is missing: the user who adds it
    /// waits for the next try.
    pub retry_config_most: Duration,
    /// How long serving containers go on after the pod was deleted, so that proxies move away
    /// first; at most half of the grace period.
    pub drain: Duration,
    /// Containers that start faster than this are told in one write, as Running; those that end
    /// faster after a back-off, as waiting for the next try.
    pub pending_status_delay: Duration,
}

/// How long `ErrImagePull` shows before it becomes `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN: Duration = Duration::from_secs(1);
/// The grace period of pods that name none.
const DEFAULT_GRACE_SECONDS: i64 = 30;

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            restart_first: Duration::from_secs(10),
            restart_most: Duration::from_secs(300),
            restart_reset: Duration::from_secs(600),
            retry_first: Duration::from_secs(2),
            retry_most: Duration::from_secs(300),
            retry_config_most: Duration::from_secs(30),
            drain: Duration::from_millis(500),
            pending_status_delay: Duration::from_millis(200),
        }
    }
}

/// Everything that the node knows about one pod.
#[derive(Clone, Debug)]
pub struct PodState {
    pub pod: Arc<Pod>,
    pub sandbox: Sandbox,
    /// Why the last try to set up the sandbox failed.
    pub sandbox_failure: Option<Failure>,
    /// Init containers and sidecars in their order, then the main ones, then ephemeral ones.
    pub containers: Vec<ContainerState>,
    /// The ephemeral containers, as containers.
    pub debug: Vec<Container>,
    pub ending: Option<Ending>,
    /// When the node first saw the pod; `status.startTime`.
    pub started_at: Timestamp,
    /// When this agent first saw it, to decide what is told of a short start.
    pub seen_at: Timestamp,
    pub timing: Timing,
    /// The object was asked to be deleted for good.
    pub delete_asked: bool,
    /// All init containers were through once.
    pub initialized: bool,
    /// An agent before this one told it as Running: it is never Pending again.
    pub was_running: bool,
    /// The node never took it: there is nothing to tell of its containers.
    pub refused: bool,
}

/// Directory, volumes and address of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    Absent,
    SettingUp,
    Ready { ip: IpAddr },
    TearingDown { ip: Option<IpAddr> },
    Gone { ip: Option<IpAddr> },
}

/// Why and since when the pod is being brought to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub cause: Cause,
    pub since: Timestamp,
    pub grace: Duration,
    /// The serving containers were told to send their clients away.
    pub draining: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// All main containers ended and none is started again.
    Finished,
    /// The node ends it (`DeadlineExceeded`, `Evicted`).
    Failed { reason: String, message: String },
    /// The object has a deletionTimestamp.
    Deleted,
    /// The object is gone from the API.
    Gone,
}

pub fn plus(time: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

impl PodState {
    /// A pod that this agent has not seen yet. What its status tells of an agent before this one
    /// is taken over by [`super::restore`].
    pub fn new(pod: Arc<Pod>, timing: Timing, now: Timestamp) -> PodState {
        let role = |c: &Container| match c.restart_policy.as_deref() {
            Some("Always") => Role::Sidecar,
            _ => Role::Init,
        };
        let spec = spec(&pod);
        let init = spec.init_containers.iter().flatten();
        let mut containers: Vec<ContainerState> =
            init.map(|c| ContainerState::new(c, role(c))).collect();
        containers.reserve_exact(spec.containers.len());
        containers.extend(spec.containers.iter().map(|c| ContainerState::new(c, Role::Main)));
        let mut state = PodState {
            pod,
            sandbox: Sandbox::Absent,
            sandbox_failure: None,
            containers,
            debug: Vec::new(),
            ending: None,
            started_at: now,
            seen_at: now,
            timing,
            delete_asked: false,
            initialized: false,
            was_running: false,
            refused: false,
        };
        state.add_debug();
        state
    }

    /// Takes in ephemeral containers that were added.
    pub(super) fn add_debug(&mut self) {
        let pod = self.pod.clone();
        for one in spec(&pod).ephemeral_containers.iter().flatten() {
            if self.find(&one.name).is_none() {
                let container = as_container(one);
                self.containers.push(ContainerState::new(&container, Role::Debug));
                self.debug.push(container);
            }
        }
    }

    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub fn ip(&self) -> Option<IpAddr> {
        match &self.sandbox {
            Sandbox::Ready { ip } => Some(*ip),
            Sandbox::TearingDown { ip } | Sandbox::Gone { ip } => *ip,
            Sandbox::Absent | Sandbox::SettingUp => None,
        }
    }

    pub fn container_spec(&self, name: &str) -> Option<&Container> {
        let debug = || self.debug.iter().find(|one| one.name == name);
        find_container(spec(&self.pod), name).or_else(debug)
    }

    pub fn container_id(&self, container: &ContainerState) -> String {
        container_id(self.uid(), &container.name, container.attempt)
    }

    pub fn find(&self, name: &str) -> Option<&ContainerState> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The container and attempt of an id, where it is the current or the starting one.
    pub(super) fn by_id(&mut self, id: &str) -> Option<&mut ContainerState> {
        let uid = self.uid().to_string();
        self.containers.iter_mut().find(|c| {
            let attempt = match c.run {
                Run::Starting { .. } => c.next_attempt(),
                _ => c.attempt,
            };
            container_id(&uid, &c.name, attempt) == id
        })
    }

    pub fn restart_policy(&self) -> &str {
        spec(&self.pod).restart_policy.as_deref().unwrap_or("Always")
    }

    /// Whether an ended container runs again: by its own restart policy (KEP-5307), or by the
    /// pod's. Init containers are only repeated when they failed. That a probe failed counts as a
    /// failure whatever the exit code (kuberuntime's computePodActions).
    pub fn restarts(&self, container: &ContainerState, exit_code: i32) -> bool {
        let own = self.container_spec(&container.name).and_then(|c| c.restart_policy.as_deref());
        match (container.role, own.unwrap_or_else(|| self.restart_policy())) {
            (Role::Debug, _) => false,
            (Role::Sidecar, _) => true,
            (_, "Never") => false,
            (Role::Main, "Always") => true,
            _ => exit_code != 0 || container.failed_probe,
        }
    }

    /// Whether an ended container is started again: by policy, or because its image changed.
    pub fn runs_again(&self, container: &ContainerState, exit_code: i32) -> bool {
        container.renew || self.restarts(container, exit_code)
    }

    /// The grace period of the spec, or of the deletion.
    pub fn grace(&self) -> Duration {
        let of_deletion = self.pod.metadata.deletion_grace_period_seconds;
        let of_spec = spec(&self.pod).termination_grace_period_seconds;
        let seconds = of_deletion.or(of_spec).unwrap_or(DEFAULT_GRACE_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// The grace period of a container that a probe failed, or of the pod
    /// (core/v1 Probe.terminationGracePeriodSeconds).
    pub fn grace_after(&self, doom: Doom, container: &str) -> Duration {
        let spec = self.container_spec(container);
        let probe = spec.and_then(|spec| match doom {
            Doom::Probe(ProbeKind::Startup) => spec.startup_probe.as_ref(),
            Doom::Probe(ProbeKind::Liveness) => spec.liveness_probe.as_ref(),
            Doom::Probe(ProbeKind::Readiness) | Doom::PostStart => None,
        });
        let seconds = probe.and_then(|probe| probe.termination_grace_period_seconds);
        match seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => Duration::from_secs(seconds),
            None => self.grace(),
        }
    }

    /// Begins the end, or hastens it: causes only get stronger and grace only shorter.
    pub fn end(&mut self, cause: Cause, grace: Duration, now: Timestamp) {
        match &mut self.ending {
            None => self.ending = Some(Ending { cause, since: now, grace, draining: false }),
            Some(ending) => {
                if rank(&cause) > rank(&ending.cause) {
                    ending.cause = cause;
                }
                ending.grace = ending.grace.min(grace);
            }
        }
    }
}

pub(super) fn find_container<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).find(|c| c.name == name)
}

fn rank(cause: &Cause) -> u8 {
    match cause {
        Cause::Finished => 0,
        Cause::Failed { .. } => 1,
        Cause::Deleted => 2,
        Cause::Gone => 3,
    }
}
