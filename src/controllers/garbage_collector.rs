//! Garbage collection by owner references: one collector for each resource that controllers keep,
//! whose keys are the objects of that resource, and one for all others, custom resources among
//! them, of which the cache has the metadata. Its keys name the resource too.
//!
//! ```text
//!   owner gone (or another uid) ─▶ confirm live ─▶ delete the dependent (this version of it)
//!   owner being deleted, Foreground ─▶ delete blocking dependents ─▶ none left ─▶ release the owner
//!   owner being deleted, Orphan     ─▶ drop the references to it   ─▶ none left ─▶ release the owner
//!   reference damaged, owner lives  ─▶ tell; drop it where the owner adopts its dependent again
//! ```
//!
//! A cache may be behind or a reference may be corrupt, so an owner counts as absent only if its kind
//! is served, the view does not have it, *and* a live read says so too; what the view has almost is no
//! absence either ([`damage`]); and deletions have a budget by the minute. Where the kind itself went,
//! its definition must be gone too. An object with one owner that lives stays. An owner of a namespaced
//! kind is looked for in the dependent's namespace only: one that lives in another, or a namespaced
//! owner of what has no namespace, is told of in an Event.
//! Source: k8s.io/kubernetes pkg/controller/garbagecollector.

mod damage;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::plan::{Write, patch_meta, target_of};
use super::{Controller, Limits, Options, Plan, Resources};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::base::planted::planted;
use crate::client::cache::{AnyObject, Changed, View};
use crate::client::event::Notice;
use crate::client::{Propagation, Target};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const WORKERS: usize = 4;
/// Dependents written by one plan.
const BURST_DEPENDENTS: usize = 500;
/// While a table that is new has not been listed, its dependents are not known: look again.
const AGAIN: Duration = Duration::from_secs(1);
const INVALID_NAMESPACE: &str = "OwnerRefInvalidNamespace";

/// Collects the objects of its resources, and releases their owners.
pub struct GarbageCollector {
    scope: Scope,
    collections_per_minute: u32,
}

enum Scope {
    One(Gvr),
    /// Those of which the cache has the metadata.
    Others(Resources),
}

/// What an owner reference leads to.
enum Owner {
    /// It lives, or it cannot be told.
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    /// The view does not have it. The check proves that it is not there.
    Absent { target: Target, check: Box<Write> },
    /// The view has the one that is meant, which lives.
    Damaged(Arc<dyn AnyObject>),
    /// Which namespace is meant cannot be told.
    Nowhere,
    /// Its table is not listed yet.
    Unknown,
}

impl GarbageCollector {
    pub fn new(resource: Gvr, options: &Options) -> GarbageCollector {
        let collections_per_minute = options.collections_per_minute;
        GarbageCollector { scope: Scope::One(resource), collections_per_minute }
    }

    pub fn others(options: &Options) -> GarbageCollector {
        let scope = Scope::Others(options.others.clone());
        GarbageCollector { scope, collections_per_minute: options.collections_per_minute }
    }

    fn covers(&self, resource: &Gvr, view: &View) -> bool {
        match &self.scope {
            Scope::One(own) => own == resource,
            Scope::Others(_) => view.is_metadata_only(resource),
        }
    }

    fn dependents(&self, uid: &str, view: &View) -> Vec<Arc<dyn AnyObject>> {
        match &self.scope {
            Scope::One(own) => view.dependents_of(own, uid),
            Scope::Others(_) => view.metadata_dependents(uid),
        }
    }

    /// The key of an object: among others it names the resource, as `widgets.example.com/name`.
    fn key(&self, resource: &Gvr, key: &ObjectKey) -> ObjectKey {
        match &self.scope {
            Scope::One(_) => key.clone(),
            Scope::Others(_) => {
                let name = format!("{}/{}", resource.qualified(), key.name);
                ObjectKey::new(key.namespace.as_str(), name)
            }
        }
    }

    /// The object that a key means.
    fn object(&self, key: &ObjectKey, view: &View) -> Option<Arc<dyn AnyObject>> {
        match &self.scope {
            Scope::One(own) => view.object(own, key),
            Scope::Others(_) => {
                let (resource, name) = key.name.split_once('/')?;
                let mut resources = view.metadata_resources();
                let resource = resources.find(|one| one.qualified() == resource)?;
                view.object(resource, &ObjectKey::new(key.namespace.as_str(), name))
            }
        }
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
        let own = self.covers(&change.resource, view);
        if own && new.is_some_and(|new| may_act_on(new.meta())) {
            keys.push(self.key(&change.resource, &change.key));
        }
        // Dependents of this resource, where an owner went or waits for them.
        for meta in [old, new].into_iter().flatten().map(AnyObject::meta) {
            let gone = new.is_none_or(|new| new.meta().uid != meta.uid) || is_waiting(meta);
            if let Some(uid) = meta.uid.as_deref().filter(|_| gone) {
                let dependents = self.dependents(uid, view);
                let key = |object: &Arc<dyn AnyObject>| {
                    self.key(&object.resource(), &ObjectKey::of(object.meta()))
                };
                keys.extend(dependents.iter().map(key));
            }
            // Owners, which may wait for this dependent.
            for owner in meta.owner_references.iter().flatten() {
                let resource = view.resource(&owner.api_version, &owner.kind);
                if let Some(resource) = resource.filter(|found| self.covers(found, view)) {
                    keys.push(self.key(&resource, &owner_key(owner, &resource, meta)));
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        match &self.scope {
            Scope::One(own) => vec![own.clone()],
            Scope::Others(resources) => resources(),
        }
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = self.object(key, view) else { return plan };
        let meta = object.meta();
        if meta.deletion_timestamp.is_some() {
            let waits = has_finalizer(meta, ORPHAN) || is_waiting(meta);
            if waits && !view.is_complete() {
                plan.again_after(AGAIN);
            } else if has_finalizer(meta, ORPHAN) {
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
        // What is new can only be a dependent; as an owner it changes nothing for anybody.
        (None, Some(new)) => may_act_on(new),
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
        return match view.retired(&owner.api_version, &owner.kind) {
            Some(resource) => ended(resource),
            None => Owner::Solid,
        };
    };
    if resource.namespaced && !dependent.resource().namespaced {
        return Owner::Nowhere;
    }
    let key = owner_key(owner, &resource, dependent.meta());
    let found = view.object(&resource, &key);
    let by_name = planted("owners are known by their names");
    match found.filter(|found| by_name || found.meta().uid.as_deref() == Some(&owner.uid)) {
        Some(found) if is_waiting(found.meta()) => Owner::Waiting,
        Some(_) => Owner::Solid,
        None if !view.is_settled(&resource) => Owner::Unknown,
        None => {
            if let Some(living) = damage::meant(owner, dependent, &resource, view) {
                return Owner::Damaged(living);
            }
            let target = Target {
                namespace: resource.namespaced.then_some(key.namespace),
                name: Some(key.name),
                resource,
                subresource: None,
            };
            let check = Write::Absent { target: target.clone(), uid: Some(owner.uid.clone()) };
            Owner::Absent { target, check: Box::new(check) }
        }
    }
}

/// What is known of the owner where its kind is served no more: it is gone if the definition of the
/// kind is, since that goes last.
fn ended(resource: Gvr) -> Owner {
    let definition = Target {
        name: Some(resource.qualified()),
        resource: Gvr::of::<CustomResourceDefinition>(),
        namespace: None,
        subresource: None,
    };
    let target = Target { resource, namespace: None, name: None, subresource: None };
    Owner::Absent { target, check: Box::new(Write::Absent { target: definition, uid: None }) }
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
            Owner::Damaged(living) => {
                solid += 1;
                if living.meta().deletion_timestamp.is_some() {
                    plan.again_after(AGAIN);
                    continue;
                }
                let uid = living.meta().uid.clone().unwrap_or_default();
                plan.writes.push(Write::Alive { target: target_of(&*living), uid });
                plan.notices.push(damage::told(object, owner, &*living));
                if damage::is_adopted_again(owner, &*living) {
                    lost.push(&owner.uid);
                }
            }
            Owner::Nowhere => {
                solid += 1;
                plan.notices.push(elsewhere(object, owner));
            }
            Owner::Unknown => {
                solid += 1;
                plan.again_after(AGAIN);
            }
            Owner::Absent { target, check } => {
                if lives_elsewhere(owner, &target, view) {
                    plan.notices.push(elsewhere(object, owner));
                }
                plan.writes.push(*check);
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

/// Whether an owner that is not where it should be is in another namespace, under its name.
fn lives_elsewhere(owner: &OwnerReference, target: &Target, view: &View) -> bool {
    target.namespace.is_some()
        && view.all::<Namespace>().any(|namespace| {
            let name = namespace.metadata.name.as_deref().unwrap_or_default();
            let found = view.object(&target.resource, &ObjectKey::new(name, owner.name.as_str()));
            found.is_some_and(|found| found.meta().uid.as_deref() == Some(&owner.uid))
        })
}

/// Upstream's words (pkg/controller/garbagecollector/graph_builder.go).
fn elsewhere(object: &dyn AnyObject, owner: &OwnerReference) -> Notice {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let OwnerReference { api_version, kind, name, uid, .. } = owner;
    let message = format!(
        "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does \
         not exist in namespace {namespace:?}"
    );
    Notice::warning(object, INVALID_NAMESPACE, message)
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

/// Takes one finalizer away.
pub fn without_finalizer(object: &dyn AnyObject, finalizer: &str) -> Write {
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    finalizers.retain(|name| name != finalizer);
    patch_meta(object, "finalizers", finalizers)
}
