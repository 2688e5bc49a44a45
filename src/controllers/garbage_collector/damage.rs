//! Owner references that are damaged: they lead to nobody, while the state says whom they mean. For such
//! a reference nothing is deleted.
//!
//! ```text
//!   named, and the uid is that of nobody:
//!     the uid differs from the living owner's in a few digits, or has no uid's form   ┐
//!     the dependent is younger than the living owner                                  ├─▶ damaged
//!   not so, and the dependent has dependents: one with that uid, or almost, lives     ┘
//!   else ─▶ an owner of before, whose name was given anew: what it had is collected
//! ```
//!
//! A uid is made of 122 random bits, so that two of them differ almost everywhere.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::owner_key;
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{AnyObject, View};
use crate::client::event::Notice;

/// Digits of a uid that may be wrong: one of so many.
const WRONG_ONE_OF: usize = 4;
/// Objects of the owner's kind that a uid is compared with, those first that have almost its name.
const MOST_COMPARED: usize = 200;
const REASON: &str = "OwnerRefDamaged";
/// Whose controllers adopt what is nobody's and matches.
const ADOPTERS: &[(&str, &str)] = &[
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "jobs"),
    ("", "replicationcontrollers"),
];

/// The living object that a reference means, where it is damaged. The view has none that it leads to.
pub fn meant(
    owner: &OwnerReference,
    dependent: &dyn AnyObject,
    resource: &Gvr,
    view: &View,
) -> Option<Arc<dyn AnyObject>> {
    let key = owner_key(owner, resource, dependent.meta());
    let namesake = view.object(resource, &key);
    let namesake = namesake.filter(|found| {
        is_almost(&owner.uid, uid(found.meta()))
            || owner.uid.len() != uid(found.meta()).len()
            || is_younger(dependent.meta(), found.meta())
    });
    namesake.or_else(|| by_uid(owner, dependent, resource, &key, view))
}

/// Of what costs little the loss is bearable, and there may be much of it.
fn by_uid(
    owner: &OwnerReference,
    dependent: &dyn AnyObject,
    resource: &Gvr,
    key: &ObjectKey,
    view: &View,
) -> Option<Arc<dyn AnyObject>> {
    if view.dependents(uid(dependent.meta())).is_empty() {
        return None;
    }
    let mut keys = view.keys(resource);
    keys.retain(|one| one.namespace == key.namespace);
    keys.sort_by_key(|one| !is_almost(&one.name, &key.name));
    let candidates = keys.iter().take(MOST_COMPARED).filter_map(|key| view.peek(resource, key));
    candidates.into_iter().find(|found| is_almost(&owner.uid, uid(found.meta())))
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Whether two texts differ in a few places only.
fn is_almost(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes()).filter(|(one, other)| one != other).count();
    one.len() == other.len() && differ * WRONG_ONE_OF <= one.len()
}

/// Who was made after the living owner was never one of an owner before it.
fn is_younger(dependent: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let made = |meta: &ObjectMeta| meta.creation_timestamp.as_ref().map(|time| time.0);
    made(dependent).zip(made(owner)).is_some_and(|(dependent, owner)| dependent > owner)
}

/// Whether the owner's controller takes its dependent back when the reference is gone.
pub fn is_adopted_again(owner: &OwnerReference, living: &dyn AnyObject) -> bool {
    let resource = living.resource();
    let adopts = ADOPTERS
        .iter()
        .any(|(group, plural)| resource.group == *group && resource.resource == *plural);
    adopts && owner.controller == Some(true)
}

/// In the form of what upstream tells of references into other namespaces.
pub fn told(object: &dyn AnyObject, owner: &OwnerReference, living: &dyn AnyObject) -> Notice {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let OwnerReference { api_version, kind, name, uid: told, .. } = owner;
    let (living_name, living) = (living.meta().name.as_deref(), uid(living.meta()));
    let message = format!(
        "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {told}] is \
         damaged: it means {}, uid: {living}, which lives, so nothing is deleted",
        living_name.unwrap_or_default()
    );
    Notice::warning(object, REASON, message)
}
