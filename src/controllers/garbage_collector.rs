//! Garbage collection by owner references: one collector a resource, whose keys are the objects of
//! that resource.
//!
//! ```text
//!   owner gone (or another uid) ─▶ confirm live ─▶ delete the dependent (this version of it)
//!   owner being deleted, Foreground ─▶ delete blocking dependents ─▶ none left ─▶ release the owner
//!   owner being deleted, Orphan     ─▶ drop the references to it   ─▶ none left ─▶ release the owner
//! ```
//!
//! A cache may be behind or a reference may be corrupt, so an owner counts as absent only if its kind
//! is kept here, the view does not have it, *and* a live read says so too; and deletions have a
//! budget by the minute. An object with one owner that lives stays.
//! Source: k8s.io/kubernetes pkg/controller/garbagecollector.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::plan::{Write, patch_meta};
use super::{Controller, Limits, Options, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{AnyObject, Changed, View};
use crate::client::{Propagation, Target};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const WORKERS: usize = 4;
/// Dependents written by one plan.
const BURST_DEPENDENTS: usize = 500;

/// Collects the objects of one resource, and releases its owners.
pub struct GarbageCollector {
    resource: Gvr,
    collections_per_minute: u32,
}

/// What an owner reference leads to.
enum Owner {
    /// It lives, or it cannot be told.
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    /// The view does not have it.
    Absent(Target),
}

impl GarbageCollector {
    pub fn new(resource: Gvr, options: &Options) -> GarbageCollector {
        let collections_per_minute = options.collections_per_minute;
        GarbageCollector { resource, collections_per_minute }
    }
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        if !concerns(old.map(AnyObject::meta), new.map(AnyObject::meta)) {
            return Vec::new();
        }
        let mut keys = Vec::new();
        if change.resource == self.resource && new.is_some_and(|new| may_act_on(new.meta())) {
            keys.push(change.key.clone());
        }
        // Dependents of this resource, where an owner went or waits for them.
        for meta in [old, new].into_iter().flatten().map(AnyObject::meta) {
            let gone = new.is_none_or(|new| new.meta().uid != meta.uid) || is_waiting(meta);
            if let Some(uid) = meta.uid.as_deref().filter(|_| gone) {
                let dependents = view.dependents_of(&self.resource, uid);
                keys.extend(dependents.iter().map(|object| ObjectKey::of(object.meta())));
            }
            // Owners of this resource, which may wait for this dependent.
            for owner in meta.owner_references.iter().flatten() {
                if view.resource(&owner.api_version, &owner.kind).as_ref() == Some(&self.resource) {
                    keys.push(owner_key(owner, &self.resource, meta));
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![self.resource.clone()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.object(&self.resource, key) else { return plan };
        let meta = object.meta();
        if meta.deletion_timestamp.is_some() {
            if has_finalizer(meta, ORPHAN) {
                orphan_dependents(&*object, view, &mut plan);
            } else if is_waiting(meta) {
                release_when_alone(&*object, view, &mut plan);
            }
            return plan;
        }
        if meta.owner_references.as_ref().is_some_and(|owners| !owners.is_empty()) {
            collect(&*object, view, &mut plan);
        }
        plan
    }

    fn limits(&self) -> Limits {
        Limits { workers: WORKERS, deletions_per_minute: Some(self.collections_per_minute) }
    }
}

/// Whether an object by itself can be a reason to act.
fn may_act_on(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
        || meta.owner_references.as_ref().is_some_and(|o| !o.is_empty())
}

/// Whether a change can matter: of being there, of owners, or of being deleted.
fn concerns(old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            old.uid != new.uid
                || old.owner_references != new.owner_references
                || old.deletion_timestamp != new.deletion_timestamp
                || old.finalizers != new.finalizers
        }
        _ => true,
    }
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|name| name == finalizer)
}

/// Being deleted in the foreground.
fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

fn owner_key(owner: &OwnerReference, resource: &Gvr, dependent: &ObjectMeta) -> ObjectKey {
    let namespace = dependent.namespace.as_deref().filter(|_| resource.namespaced);
    ObjectKey::new(namespace.unwrap_or_default(), owner.name.as_str())
}

fn find_owner(owner: &OwnerReference, dependent: &dyn AnyObject, view: &View) -> Owner {
    let Some(resource) = view.resource(&owner.api_version, &owner.kind) else {
        return Owner::Solid;
    };
    if resource.namespaced && !dependent.resource().namespaced {
        // Which namespace is meant cannot be told.
        return Owner::Solid;
    }
    let key = owner_key(owner, &resource, dependent.meta());
    let found = view.object(&resource, &key);
    match found.filter(|found| found.meta().uid.as_deref() == Some(&owner.uid)) {
        Some(found) if is_waiting(found.meta()) => Owner::Waiting,
        Some(_) => Owner::Solid,
        None => Owner::Absent(Target {
            namespace: resource.namespaced.then_some(key.namespace),
            name: Some(key.name),
            resource,
            subresource: None,
        }),
    }
}

/// Deletes an object without a living owner, or drops its references to owners that are gone.
fn collect(object: &dyn AnyObject, view: &View, plan: &mut Plan) {
    let (mut solid, mut waiting) = (0, 0);
    let mut lost: Vec<&str> = Vec::new();
    for owner in object.meta().owner_references.iter().flatten() {
        match find_owner(owner, object, view) {
            Owner::Solid => solid += 1,
            Owner::Waiting => {
                waiting += 1;
                lost.push(&owner.uid);
            }
            Owner::Absent(target) => {
                plan.writes.push(Write::Absent { target, uid: Some(owner.uid.clone()) });
                lost.push(&owner.uid);
            }
        }
    }
    if lost.is_empty() {
        return;
    }
    plan.then();
    if solid > 0 {
        plan.writes.push(edited(object, |owners| {
            owners.retain(|owner| !lost.contains(&owner.uid.as_str()));
        }));
    } else if waiting > 0 {
        delete_for_waiting(object, view, plan);
    } else {
        plan.delete_version(object, propagation(object.meta()));
    }
}

/// Deletes a dependent that an owner waits for: in the foreground too if it has dependents of its
/// own.
fn delete_for_waiting(object: &dyn AnyObject, view: &View, plan: &mut Plan) {
    let uid = object.meta().uid.as_deref().unwrap_or_default();
    let dependents = view.dependents(uid);
    if dependents.is_empty() {
        return plan.delete_version(object, propagation(object.meta()));
    }
    let circle = dependents.iter().any(|dependent| is_waiting(dependent.meta()));
    let blocks = |owner: &OwnerReference| owner.block_owner_deletion == Some(true);
    if circle && object.meta().owner_references.iter().flatten().any(blocks) {
        // Each would wait for the other: this one holds up its owners no more, and is deleted when
        // that is seen.
        plan.writes.push(edited(object, |owners| {
            owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        }));
        return;
    }
    plan.delete_version(object, Propagation::Foreground);
}

/// What the finalizers of an object ask for.
fn propagation(meta: &ObjectMeta) -> Propagation {
    if has_finalizer(meta, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(meta, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    }
}

/// Lets an owner go that no dependent blocks any more.
fn release_when_alone(owner: &dyn AnyObject, view: &View, plan: &mut Plan) {
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let blocks = |object: &dyn AnyObject| {
        let owners = object.meta().owner_references.iter().flatten();
        let mut this = owners.filter(|reference| reference.uid == uid);
        object.meta().uid.as_deref() != Some(uid)
            && this.any(|reference| reference.block_owner_deletion == Some(true))
    };
    // The dependents delete themselves, each as a key of its own collector.
    if !view.dependents(uid).iter().any(|object| blocks(&**object)) {
        plan.writes.push(without_finalizer(owner, FOREGROUND));
    }
}

/// Drops the references to an owner from its dependents, then lets it go.
fn orphan_dependents(owner: &dyn AnyObject, view: &View, plan: &mut Plan) {
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    for object in view.dependents(uid).iter().take(BURST_DEPENDENTS) {
        plan.writes.push(edited(&**object, |owners| {
            owners.retain(|owner| owner.uid != uid);
        }));
    }
    if plan.writes.is_empty() {
        plan.writes.push(without_finalizer(owner, ORPHAN));
    }
}

/// A change of an object's owner references.
fn edited(object: &dyn AnyObject, edit: impl FnOnce(&mut Vec<OwnerReference>)) -> Write {
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    edit(&mut owners);
    patch_meta(object, "ownerReferences", owners)
}

fn without_finalizer(object: &dyn AnyObject, finalizer: &str) -> Write {
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    finalizers.retain(|name| name != finalizer);
    patch_meta(object, "finalizers", finalizers)
}
