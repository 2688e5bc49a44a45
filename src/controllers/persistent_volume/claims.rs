//! One step of a claim.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::best;
use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONERS, SELECTED_NODE, YES, annotate, claim_ref,
    class_of, has_annotation, is_for, reference_to, volume_name,
};
use crate::api::kinds::storage::{NO_PROVISIONER, WAIT_FOR_FIRST_CONSUMER, mismatch};
use crate::api::kinds::storage_class;
use crate::client::Target;
use crate::client::cache::View;
use crate::client::event::Notice;
use crate::controllers::Plan;
use crate::controllers::plan::Write;

pub fn reconcile(view: &View, claim: &PersistentVolumeClaim) -> Plan {
    let mut plan = Plan::nothing();
    if has_annotation(&claim.metadata, BIND_COMPLETED) {
        check_binding(view, claim, &mut plan);
    } else if claim.metadata.deletion_timestamp.is_none() {
        find_volume(view, claim, &mut plan);
    }
    plan
}

fn find_volume(view: &View, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let named = volume_name(claim);
    if named.is_empty() {
        let class = view.get::<StorageClass>("", class_of(claim));
        let mode = class.and_then(|class| class.volume_binding_mode.as_deref());
        let delayed = mode == Some(WAIT_FOR_FIRST_CONSUMER);
        return match best(view, claim, delayed) {
            Some(volume) => bind(volume, claim, plan),
            None => wait(view, claim, delayed, plan),
        };
    }
    let Some(volume) = view.get::<PersistentVolume>("", named) else {
        return set_phase(claim, "Pending", plan);
    };
    let why = match claim_ref(volume) {
        None => mismatch(claim, volume).map(|why| {
            ("VolumeMismatch", format!("Cannot bind to requested volume {named:?}: {why}"))
        }),
        Some(reference) if is_for(reference, claim) => None,
        Some(_) => {
            Some(("FailedBinding", format!("volume {named:?} already bound to a different claim.")))
        }
    };
    match why {
        None => bind(volume, claim, plan),
        Some((reason, message)) => {
            plan.notices.push(Notice::warning(claim, reason, message));
            set_phase(claim, "Pending", plan);
        }
    }
}

/// The next of three steps: the volume names the claim, the claim names the volume, the claim's
/// status tells what it has.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let reference = claim_ref(volume);
    if reference.is_none_or(|reference| reference.uid != claim.metadata.uid) {
        let mut bound = volume.clone();
        if reference.is_none() {
            annotate(&mut bound.metadata, BOUND_BY_CONTROLLER, YES);
        }
        bound.spec.get_or_insert_default().claim_ref = Some(reference_to(claim));
        return plan.update(&bound);
    }
    let mut bound = claim.clone();
    let spec = bound.spec.get_or_insert_default();
    let mut changed = false;
    if spec.volume_name != volume.metadata.name {
        spec.volume_name.clone_from(&volume.metadata.name);
        annotate(&mut bound.metadata, BOUND_BY_CONTROLLER, YES);
        changed = true;
    }
    changed |= annotate(&mut bound.metadata, BIND_COMPLETED, YES);
    if changed {
        return plan.update(&bound);
    }
    let status = bound.status.get_or_insert_default();
    status.phase = Some("Bound".into());
    let spec = volume.spec.as_ref();
    status.access_modes = spec.and_then(|spec| spec.access_modes.clone());
    status.capacity = spec.and_then(|spec| spec.capacity.clone());
    if bound.status != claim.status {
        plan.update_status(&bound);
    }
}

/// A claim without a volume says what it waits for.
fn wait(view: &View, claim: &PersistentVolumeClaim, delayed: bool, plan: &mut Plan) {
    let spec = claim.spec.clone().unwrap_or_default();
    let class = class_of(claim);
    // A default class that came later is that of claims which name none, as upstream.
    if class.is_empty()
        && spec.storage_class_name.is_none()
        && let Some(default) = default_class(view)
    {
        let mut classed = claim.clone();
        let spec = classed.spec.get_or_insert_default();
        spec.storage_class_name.clone_from(&default.metadata.name);
        return plan.update(&classed);
    }
    set_phase(claim, "Pending", plan);
    let mut say = |notice: Notice| plan.notices.push(notice);
    if delayed && !has_annotation(&claim.metadata, SELECTED_NODE) {
        let text = "waiting for first consumer to be created before binding";
        return say(Notice::normal(claim, "WaitForFirstConsumer", text));
    }
    let found = view.get::<StorageClass>("", class);
    match found.map(|class| class.provisioner.as_str()) {
        None if class.is_empty() => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            say(Notice::normal(claim, "FailedBinding", text));
        }
        None => {
            let text = format!("storageclass.storage.k8s.io {class:?} not found");
            say(Notice::warning(claim, "ProvisioningFailed", text));
        }
        Some(NO_PROVISIONER) => {
            let text = "no persistent volumes available for this claim, and its class makes none";
            say(Notice::normal(claim, "FailedBinding", text));
        }
        Some(provisioner) => {
            let text = format!(
                "Waiting for a volume to be created either by the external provisioner \
                 '{provisioner}' or manually by the system administrator. If volume creation is \
                 delayed, please verify that the provisioner is running and correctly registered."
            );
            say(Notice::normal(claim, "ExternalProvisioning", text));
            let mut asked = claim.clone();
            let mut changed = false;
            for annotation in PROVISIONERS {
                changed |= annotate(&mut asked.metadata, annotation, provisioner);
            }
            if changed {
                plan.update(&asked);
            }
        }
    }
}

/// The newest of the default classes.
fn default_class<'v>(view: &'v View) -> Option<&'v StorageClass> {
    let classes = view.all::<StorageClass>().map(|class| &**class);
    let defaults = classes.filter(|class| storage_class::is_default(class));
    defaults.max_by(|a, b| {
        let age = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|t| t.0);
        age(a).cmp(&age(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    })
}

/// A claim that was bound keeps its volume, or has lost it for ever.
fn check_binding(view: &View, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    const GONE: &str = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
    const UNNAMED: &str =
        "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
    const TWICE: &str = "Two claims are bound to the same volume, this one is bound incorrectly";
    let name = volume_name(claim);
    if name.is_empty() {
        return lose(claim, "ClaimLost", UNNAMED, plan);
    }
    let Some(volume) = view.get::<PersistentVolume>("", name) else {
        if !is_lost(claim) {
            // The view may be behind; only a live read tells that a volume is gone.
            let target = Target::one::<PersistentVolume>("", name);
            plan.writes.push(Write::Absent { target, uid: None });
            plan.then();
        }
        return lose(claim, "ClaimLost", GONE, plan);
    };
    match claim_ref(volume) {
        Some(reference) if reference.uid != claim.metadata.uid => {
            lose(claim, "ClaimMisbound", TWICE, plan);
        }
        _ => bind(volume, claim, plan),
    }
}

fn is_lost(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost")
}

fn lose(claim: &PersistentVolumeClaim, reason: &'static str, text: &str, plan: &mut Plan) {
    if !is_lost(claim) {
        plan.notices.push(Notice::warning(claim, reason, text));
        set_phase(claim, "Lost", plan);
    }
}

/// A claim that is not bound has nothing.
fn set_phase(claim: &PersistentVolumeClaim, phase: &str, plan: &mut Plan) {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.into());
    (status.access_modes, status.capacity) = (None, None);
    if changed.status != claim.status {
        plan.update_status(&changed);
    }
}
