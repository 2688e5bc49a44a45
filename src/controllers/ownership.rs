//! Owner references: who controls an object, adopting orphans and letting go what does not match.
//! Shared by the controllers that own replicas.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::json;

use super::Plan;
use super::plan::{Write, patch_meta, patch_metas};
use crate::api::resource::Kind;
use crate::api::selector::Selector;
use crate::client::Target;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// The labels, empty where there are none.
pub fn labels(meta: &ObjectMeta) -> &BTreeMap<String, String> {
    meta.labels.as_ref().unwrap_or(&NO_LABELS)
}

pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The reference to the one owner that controls an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The reference to the controlling owner if that is a `T`.
pub fn controlled_by_kind<T: Kind>(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_string());
    controller_of(meta).filter(|owner| {
        owner.kind == T::KIND && group(&owner.api_version).unwrap_or_default() == T::GROUP
    })
}

/// A reference that makes `owner` the controller.
pub fn controller_reference<T: Kind>(owner: &T) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: T::API_VERSION.into(),
        kind: T::KIND.into(),
        name: name(meta).into(),
        uid: uid(meta).into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The selector of a spec; `None` for one that is invalid or would select everything, on which
/// nothing is safe to do.
pub fn usable_selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::from_typed(Some(selector)).ok().filter(|selector| !selector.is_everything())
}

/// Sorts `candidates` (the owner's dependents and the orphans of its namespace) into those that
/// the owner controls now and plans to adopt those that match and have no controller, and to
/// release those that it controls but that do not match. Both come back by their own change;
/// `true` is answered if anything was planned, so that the caller waits for it before it counts.
/// Adoptions wait for a live look at the owner.
pub fn claim<'a, O: Kind, T: Kind>(
    owner: &O,
    selector: &Selector,
    candidates: impl Iterator<Item = &'a T>,
    plan: &mut Plan,
) -> (Vec<&'a T>, bool) {
    claim_kept(owner, selector, candidates, None, plan)
}

/// The same, for an owner whose dependents have a finalizer of its own: it comes and goes with the
/// owner reference.
pub fn claim_kept<'a, O: Kind, T: Kind>(
    owner: &O,
    selector: &Selector,
    candidates: impl Iterator<Item = &'a T>,
    finalizer: Option<&str>,
    plan: &mut Plan,
) -> (Vec<&'a T>, bool) {
    let owner_meta = owner.metadata();
    let owner_lives = owner_meta.deletion_timestamp.is_none();
    let (mut owned, mut adoptions, mut planned) = (Vec::new(), Vec::new(), false);
    for candidate in candidates {
        let meta = candidate.metadata();
        let matches = selector.matches(labels(meta));
        match controller_of(meta) {
            Some(reference) if Some(&reference.uid) == owner_meta.uid.as_ref() => {
                if matches {
                    owned.push(candidate);
                } else if owner_lives {
                    plan.writes.push(released(candidate, uid(owner_meta), finalizer));
                    planned = true;
                }
            }
            None if matches && owner_lives && meta.deletion_timestamp.is_none() => {
                adoptions.push(adopted(candidate, owner, finalizer));
            }
            _ => {}
        }
    }
    if !adoptions.is_empty() {
        // The view may be behind, and an object that is adopted by what is gone is collected: only
        // a live read tells that the owner is there to stay.
        plan.writes.push(Write::Alive { target: Target::of(owner), uid: uid(owner_meta).into() });
        plan.then();
        plan.writes.append(&mut adoptions);
        planned = true;
    }
    (owned, planned)
}

fn adopted<O: Kind, T: Kind>(object: &T, owner: &O, finalizer: Option<&str>) -> Write {
    let reference = controller_reference(owner);
    let meta = object.metadata();
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    // The owner may be named already, without controlling.
    owners.retain(|other| other.uid != reference.uid);
    owners.push(reference);
    let has = |finalizer: &&str| meta.finalizers.iter().flatten().any(|one| one == finalizer);
    let Some(finalizer) = finalizer.filter(|finalizer| !has(finalizer)) else {
        return patch_meta(object, "ownerReferences", owners);
    };
    let finalizers: Vec<&str> =
        meta.finalizers.iter().flatten().map(String::as_str).chain([finalizer]).collect();
    patch_metas(object, json!({"ownerReferences": owners, "finalizers": finalizers}))
}

fn released<T: Kind>(object: &T, owner_uid: &str, finalizer: Option<&str>) -> Write {
    let meta = object.metadata();
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != owner_uid);
    let Some(finalizer) = finalizer else {
        return patch_meta(object, "ownerReferences", owners);
    };
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|one| one != finalizer);
    patch_metas(object, json!({"ownerReferences": owners, "finalizers": finalizers}))
}
