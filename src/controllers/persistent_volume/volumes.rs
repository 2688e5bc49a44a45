//! One step of a volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, claim_ref, has_annotation, key_of, volume_name};
use crate::client::Target;
use crate::client::cache::View;
use crate::client::event::Notice;
use crate::controllers::Plan;
use crate::controllers::plan::Write;

pub fn reconcile(view: &View, volume: &PersistentVolume, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let reference = claim_ref(volume);
    let Some((reference, uid)) = reference.and_then(|one| Some((one, full(&one.uid)?))) else {
        // Free, or kept for a claim that may come.
        set_phase(volume, "Available", "", now, &mut plan);
        return plan;
    };
    let claim = view.get_key::<PersistentVolumeClaim>(&key_of(reference));
    let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid));
    let own = volume.metadata.name.as_deref().unwrap_or_default();
    match claim.map(|claim| volume_name(claim)) {
        None => release(volume, reference, uid, now, &mut plan),
        // The claim goes on with it.
        Some("") => {}
        Some(name) if name == own => set_phase(volume, "Bound", "", now, &mut plan),
        Some(_) => unbind(volume, now, &mut plan),
    }
    plan
}

fn full(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or_default()
}

/// The claim is gone. What is deleted then is its provisioner's to delete, which waits for the
/// phase.
fn release(
    volume: &PersistentVolume,
    reference: &ObjectReference,
    uid: &str,
    now: Timestamp,
    plan: &mut Plan,
) {
    if phase(volume) == "Failed" {
        return;
    }
    if phase(volume) != "Released" {
        // The view may be behind; only a live read tells that a claim is gone.
        let key = key_of(reference);
        let target = Target::one::<PersistentVolumeClaim>(&key.namespace, &key.name);
        plan.writes.push(Write::Absent { target, uid: Some(uid.into()) });
        plan.then();
        return set_phase(volume, "Released", "", now, plan);
    }
    if policy(volume) == "Recycle" {
        const TEXT: &str = "No recycler plugin found for the volume!";
        plan.notices.push(Notice::warning(volume, "VolumeFailedRecycle", TEXT));
        set_phase(volume, "Failed", TEXT, now, plan);
    }
}

/// The claim has another volume. One that was made for it is of no use to anybody else.
fn unbind(volume: &PersistentVolume, now: Timestamp, plan: &mut Plan) {
    if has_annotation(&volume.metadata, PROVISIONED_BY) && policy(volume) == "Delete" {
        if !matches!(phase(volume), "Released" | "Failed") {
            set_phase(volume, "Released", "", now, plan);
        }
        return;
    }
    let mut free = volume.clone();
    let annotations = free.metadata.annotations.as_mut();
    let ours = annotations.and_then(|all| all.remove(BOUND_BY_CONTROLLER)).is_some();
    let Some(spec) = &mut free.spec else { return };
    match (&mut spec.claim_ref, ours) {
        // What a user wrote stays, for a claim of that name.
        (Some(reference), false) => reference.uid = None,
        (reference, _) => *reference = None,
    }
    plan.update(&free);
}

fn set_phase(
    volume: &PersistentVolume,
    phase: &str,
    message: &str,
    now: Timestamp,
    plan: &mut Plan,
) {
    if self::phase(volume) == phase {
        return;
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.into());
    status.message = Some(message.to_string()).filter(|text| !text.is_empty());
    status.last_phase_transition_time = Some(Time(now));
    plan.update_status(&changed);
}
