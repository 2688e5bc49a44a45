//! What a Deployment's status says: counts, and the conditions Available, Progressing and
//! ReplicaFailure that `kubectl rollout status` and users read.
//! Source: k8s.io/kubernetes pkg/controller/deployment/{sync,progress}.go.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ownership::name;
use super::proportion::Bounds;
use super::replica_set::wanted;
use super::revision::Sets;

pub const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const COMPLETE: &str = "NewReplicaSetAvailable";
/// A deadline of this many seconds means none.
const NO_DEADLINE: i32 = i32::MAX;

/// What a reconcile did, as far as conditions tell of it.
pub enum Step<'a> {
    /// Created the ReplicaSet of this name.
    Created(&'a str),
    /// Rolls out, or is done with it.
    Rolling,
    /// Changed sizes only: paused, or `spec.replicas` changed.
    Resizing,
}

/// The status that a Deployment should have now.
pub fn compute(d: &Deployment, sets: &Sets, step: &Step, now: Timestamp) -> DeploymentStatus {
    let mut status = counts(d, sets);
    let mut conditions = Conditions::of(d, now);
    let bounds = Bounds::of(d);
    if status.available_replicas.unwrap_or(0) >= bounds.min_available() {
        let text = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", text.into());
    } else {
        let text = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", text.into());
    }
    if deadline(d).is_none() {
        conditions.remove(PROGRESSING);
    } else {
        progress(d, sets, step, &status, &mut conditions, now);
    }
    if !matches!(step, Step::Resizing) {
        replica_failure(sets, &mut conditions);
    }
    status.conditions = Some(conditions.list).filter(|list| !list.is_empty());
    status
}

/// When a rollout that stands still runs into its deadline. A complete one has none, even if pods
/// were lost since.
pub fn deadline_in(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(d)?;
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == PROGRESSING)?;
    let is_over = matches!(condition.reason.as_deref(), Some(TIMED_OUT | COMPLETE));
    let is_deleting = d.metadata.deletion_timestamp.is_some();
    if is_over || is_deleting || is_paused(d) || is_complete(d, status) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = deadline - now.duration_since(since);
    // A second later, so that the deadline has surely passed.
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO) + Duration::from_secs(1))
}

/// The rollout has reached what the spec asks for.
pub fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let replicas = Some(Bounds::of(d).replicas).filter(|count| *count > 0);
    status.updated_replicas == replicas
        && status.replicas == replicas
        && status.available_replicas == replicas
        && status.observed_generation >= d.metadata.generation
}

pub fn is_paused(d: &Deployment) -> bool {
    d.spec.as_ref().and_then(|spec| spec.paused) == Some(true)
}

/// Replaces a condition in a Deployment that could not create its ReplicaSet; `None` if it says so
/// already.
pub fn with_create_error(d: &Deployment, message: String, now: Timestamp) -> Option<Deployment> {
    deadline(d)?;
    let mut conditions = Conditions::of(d, now);
    conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", message);
    let mut changed = d.clone();
    changed.status.get_or_insert_default().conditions = Some(conditions.list);
    (changed.status != d.status).then_some(changed)
}

fn deadline(d: &Deployment) -> Option<SignedDuration> {
    let seconds = d.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != NO_DEADLINE).then(|| SignedDuration::from_secs(seconds.into()))
}

fn counts(d: &Deployment, sets: &Sets) -> DeploymentStatus {
    let sum = |count: &dyn Fn(&ReplicaSetStatus) -> i32| {
        let total: i32 = sets.all().filter_map(|set| set.status.as_ref()).map(count).sum();
        Some(total).filter(|total| *total != 0)
    };
    let available = sum(&|status| status.available_replicas.unwrap_or(0));
    let asked: i32 = sets.all().map(wanted).sum();
    let unavailable = asked - available.unwrap_or(0);
    let updated = sets.new.and_then(|set| set.status.as_ref()).map(|status| status.replicas);
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: sum(&|status| status.replicas),
        updated_replicas: updated.filter(|count| *count != 0),
        ready_replicas: sum(&|status| status.ready_replicas.unwrap_or(0)),
        available_replicas: available,
        unavailable_replicas: Some(unavailable).filter(|count| *count > 0),
        terminating_replicas: sum(&|status| status.terminating_replicas.unwrap_or(0)).or(Some(0)),
        collision_count: d.status.as_ref().and_then(|status| status.collision_count),
        conditions: None,
    }
}

fn progress(
    d: &Deployment,
    sets: &Sets,
    step: &Step,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
    now: Timestamp,
) {
    pausing(d, conditions);
    // A deployment that was resumed just now has its deadline from now on.
    let current = conditions.get(PROGRESSING).cloned();
    let reason = current.as_ref().and_then(|condition| condition.reason.clone());
    if let Step::Created(new) = step {
        let text = format!("Created new replica set {new:?}");
        return conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", text);
    }
    if matches!(step, Step::Resizing) {
        return;
    }
    if let (None, Some(new)) = (&current, sets.new) {
        let text = format!("Found new replica set {:?}", name(&new.metadata));
        conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", text);
    }
    let settled = status.replicas == status.updated_replicas && reason.as_deref() == Some(COMPLETE);
    if settled {
        return;
    }
    let subject = match sets.new {
        Some(new) => format!("ReplicaSet {:?}", name(&new.metadata)),
        None => format!("Deployment {:?}", name(&d.metadata)),
    };
    if is_complete(d, status) {
        let text = format!("{subject} has successfully progressed.");
        conditions.set(PROGRESSING, "True", COMPLETE, text);
    } else if is_progressing(d, status) {
        conditions.renew(PROGRESSING, "ReplicaSetUpdated", format!("{subject} is progressing."));
    } else if is_timed_out(d, current.as_ref(), now) {
        let text = format!("{subject} has timed out progressing.");
        conditions.set(PROGRESSING, "False", TIMED_OUT, text);
    }
}

/// A rollout that is paused or resumed has a fresh deadline; one that failed keeps saying so.
fn pausing(d: &Deployment, conditions: &mut Conditions) {
    let reason = conditions.get(PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return;
    }
    let was_paused = reason == Some("DeploymentPaused");
    if is_paused(d) && !was_paused {
        let text = "Deployment is paused";
        conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", text.into());
    } else if !is_paused(d) && was_paused {
        let text = "Deployment is resumed";
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", text.into());
    }
}

/// More updated, ready or available replicas, or fewer old ones, than at the last status.
fn is_progressing(d: &Deployment, status: &DeploymentStatus) -> bool {
    let default = DeploymentStatus::default();
    let before = d.status.as_ref().unwrap_or(&default);
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    status.updated_replicas > before.updated_replicas
        || old(status) < old(before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
}

fn is_timed_out(d: &Deployment, current: Option<&DeploymentCondition>, now: Timestamp) -> bool {
    let (Some(deadline), Some(current)) = (deadline(d), current) else { return false };
    match current.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let since = current.last_update_time.as_ref();
            since.is_some_and(|since| now.duration_since(since.0) > deadline)
        }
    }
}

/// Tells the failure of a ReplicaSet, the newest one's first.
fn replica_failure(sets: &Sets, conditions: &mut Conditions) {
    let failed = |set: &ReplicaSet| {
        let list = set.status.as_ref()?.conditions.as_ref()?;
        list.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    };
    match sets.all().find_map(failed) {
        Some(failure) => conditions.set(
            REPLICA_FAILURE,
            &failure.status,
            failure.reason.as_deref().unwrap_or_default(),
            failure.message.unwrap_or_default(),
        ),
        None => conditions.remove(REPLICA_FAILURE),
    }
}

/// The conditions being worked on.
struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn of(d: &Deployment, now: Timestamp) -> Conditions {
        let list = d.status.as_ref().and_then(|status| status.conditions.clone());
        Conditions { list: list.unwrap_or_default(), now }
    }

    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_ != kind);
    }

    /// Sets a condition; the same status and reason change nothing.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let same = self
            .get(kind)
            .is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason));
        if !same {
            self.put(kind, status, reason, message);
        }
    }

    /// Sets a true condition and the time of its update, even if it says the same.
    fn renew(&mut self, kind: &str, reason: &str, message: String) {
        self.put(kind, "True", reason, message);
    }

    fn put(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let old = self.get(kind).filter(|condition| condition.status == status);
        let transition = old.and_then(|condition| condition.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: Some(transition.unwrap_or(Time(self.now))),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(place) => *place = condition,
            None => self.list.push(condition),
        }
    }
}
