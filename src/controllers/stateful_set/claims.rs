//! The claims of a StatefulSet's pods: one for each template and ordinal, made before the pod, and
//! kept when it goes. What becomes of them when the set shrinks or goes, its retention policy says:
//! then they have an owner, and the garbage collector does the rest.
//!
//! ```text
//!   whenDeleted  whenScaled   owner while the ordinal is wanted   owner when it is not
//!   Retain       Retain       none                                none
//!   Delete       Retain       the set                             the set
//!   Retain       Delete       none                                the pod
//!   Delete       Delete       the set                             the pod
//! ```
//!
//! Source: k8s.io/kubernetes pkg/controller/statefulset/stateful_set_utils.go, KEP-1847.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::identity::pod_name;
use super::spec::Spec;
use crate::api::ObjectKey;
use crate::client::cache::View;
use crate::controllers::ownership::{controller_of, controller_reference, name, namespace, uid};
use crate::controllers::plan::{Write, patch_meta};

/// What of a pod's claims is missing.
pub enum Missing {
    /// These are to be made first; none if all are there.
    Claims(Vec<PersistentVolumeClaim>),
    /// One is on its way out, and the pod waits for its end.
    Waits(String),
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    let templates = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref());
    templates.unwrap_or_default()
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, at: i32) -> String {
    format!("{}-{}", name(&template.metadata), pod_name(set, at))
}

/// The volumes through which a pod has its claims.
pub fn volumes(set: &StatefulSet, at: i32) -> Vec<Volume> {
    let volume = |template: &PersistentVolumeClaim| Volume {
        name: name(&template.metadata).into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(template, set, at),
            read_only: None,
        }),
        ..Volume::default()
    };
    templates(set).iter().map(volume).collect()
}

/// The sets that a claim may be of, by its name: no part of it says where the template's name ends.
pub fn sets_of(view: &View, claim: &ObjectKey) -> Vec<ObjectKey> {
    let Some((stem, ordinal)) = claim.name.rsplit_once('-') else { return Vec::new() };
    if ordinal.parse::<i32>().is_err() {
        return Vec::new();
    }
    let splits = stem.match_indices('-').map(|(at, _)| (&stem[..at], &stem[at + 1..]));
    let sets = splits.filter(|(template, set)| {
        let set = view.get::<StatefulSet>(&claim.namespace, set);
        set.is_some_and(|set| templates(set).iter().any(|one| name(&one.metadata) == *template))
    });
    sets.map(|(_, set)| ObjectKey::new(claim.namespace.as_str(), set)).collect()
}

/// What a pod that is about to be made still lacks.
pub fn missing(view: &View, set: &StatefulSet, spec: &Spec, at: i32) -> Missing {
    let mut new = Vec::new();
    for template in templates(set) {
        let claim = claim_name(template, set, at);
        match view.get::<PersistentVolumeClaim>(namespace(&set.metadata), &claim) {
            None => new.push(new_claim(set, spec, template, at)),
            // Also one that a pod of this name leaves behind: it goes with that pod.
            Some(found) if is_ending(found) || owned_by_pod(found, &pod_name(set, at)) => {
                return Missing::Waits(claim);
            }
            Some(_) => {}
        }
    }
    Missing::Claims(new)
}

fn is_ending(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some()
}

fn owned_by_pod(claim: &PersistentVolumeClaim, pod: &str) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "Pod" && owner.name == pod)
}

fn new_claim(
    set: &StatefulSet,
    spec: &Spec,
    template: &PersistentVolumeClaim,
    at: i32,
) -> PersistentVolumeClaim {
    let own = template.metadata.clone();
    let mut labels = own.labels.unwrap_or_default();
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    labels.extend(selector.unwrap_or_default());
    let owner = spec.deletes_claims.then(|| vec![controller_reference(set)]);
    let metadata = ObjectMeta {
        name: Some(claim_name(template, set, at)),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        annotations: own.annotations,
        finalizers: own.finalizers,
        owner_references: owner,
        ..ObjectMeta::default()
    };
    PersistentVolumeClaim { metadata, spec: template.spec.clone(), status: None }
}

/// Gives the claims of a pod the owner that the policy asks for, where they have another.
pub fn own(view: &View, set: &StatefulSet, spec: &Spec, pod: &Pod, at: i32) -> Vec<Write> {
    let claims = templates(set).iter().filter_map(|template| {
        let claim = claim_name(template, set, at);
        view.get::<PersistentVolumeClaim>(namespace(&set.metadata), &claim)
    });
    let claims = claims.filter(|claim| !is_ending(claim));
    let changed = claims.filter_map(|claim| {
        let owners = owners(claim, set, spec, pod, at);
        let before = claim.metadata.owner_references.as_deref().unwrap_or_default();
        (owners != before).then(|| patch_meta(&**claim, "ownerReferences", owners))
    });
    changed.collect()
}

fn owners(
    claim: &PersistentVolumeClaim,
    set: &StatefulSet,
    spec: &Spec,
    pod: &Pod,
    at: i32,
) -> Vec<OwnerReference> {
    let (set_uid, pod_uid) = (uid(&set.metadata), uid(&pod.metadata));
    let mut owners = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_ours = |owner: &OwnerReference| owner.uid == set_uid || owner.uid == pod_uid;
    if controller_of(&claim.metadata).is_some_and(|owner| !is_ours(owner)) {
        // Somebody else's, who decides about it.
        owners.retain(|owner| !is_ours(owner));
        return owners;
    }
    let wanted = if !spec.has(at) && spec.deletes_claims_of_spare {
        Some(controller_reference(pod))
    } else {
        spec.deletes_claims.then(|| controller_reference(set))
    };
    if let Some(wanted) = &wanted
        && owners.iter().filter(|owner| is_ours(owner)).eq([wanted])
    {
        return owners;
    }
    owners.retain(|owner| !is_ours(owner));
    owners.extend(wanted);
    owners
}
