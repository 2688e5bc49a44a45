//! PersistentVolumes and the claims for them: each claim is bound to the smallest volume that fits,
//! or to the one that it or the volume names, and each volume says what became of it.
//!
//! ```text
//!   claim:  Pending ─▶ volume names it ─▶ it names the volume ─▶ Bound ─▶ Lost (the volume went)
//!   volume: Available ─▶ Bound ─▶ Released (the claim went; what then, its reclaim policy says)
//! ```
//!
//! A binding is two references, written one after the other, the volume's first: whoever of two
//! claims writes it has the volume, and the other one looks again. Each run takes one step. Volumes
//! are made and removed by provisioners, which follow the same annotations as upstream's.
//! Source: k8s.io/kubernetes pkg/controller/volume/persistentvolume.

mod claims;
mod matching;
mod volumes;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::kinds::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE,
};
use crate::api::kinds::{persistent_volume, persistent_volume_claim, storage};
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

/// Who is to make a volume for the claim.
const PROVISIONERS: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", storage::PROVISIONER];
const YES: &str = "yes";

/// Binds claims to volumes. Keys without a namespace are volumes.
pub struct PersistentVolumeController;

impl Controller for PersistentVolumeController {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        let mut keys = Vec::new();
        if change.resource == Gvr::of::<PersistentVolume>() {
            keys.push(change.key.clone());
            let (old, new) = change.typed::<PersistentVolume>();
            let references = [old, new].into_iter().flatten().filter_map(claim_ref);
            keys.extend(references.map(key_of));
            keys.extend(waiting(view, &persistent_volume_claim::of_volume(&change.key.name)));
            if let Some(free) = new.filter(|new| claim_ref(new).is_none()) {
                let class = persistent_volume::class(free);
                keys.extend(waiting(view, &persistent_volume_claim::of_class(class)));
            }
        } else if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            keys.push(change.key.clone());
            let (old, new) = change.typed::<PersistentVolumeClaim>();
            let named = [old, new].into_iter().flatten().map(volume_name);
            let named = named.filter(|name| !name.is_empty());
            keys.extend(named.map(|name| ObjectKey::new("", name)));
            let reserved = persistent_volume::of_claim(&change.key.namespace, &change.key.name);
            let reserved = view.indexed::<PersistentVolume>(&reserved);
            keys.extend(reserved.map(|volume| ObjectKey::of(&volume.metadata)));
        } else if change.resource == Gvr::of::<StorageClass>() && change.new.is_some() {
            keys.extend(waiting(view, &persistent_volume_claim::of_class(&change.key.name)));
            keys.extend(waiting(view, &persistent_volume_claim::of_class("")));
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<PersistentVolume>(), Gvr::of::<PersistentVolumeClaim>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        if key.namespace.is_empty() {
            let volume = view.get_key::<PersistentVolume>(key);
            return volume.map(|volume| volumes::reconcile(view, volume, now)).unwrap_or_default();
        }
        let claim = view.get_key::<PersistentVolumeClaim>(key);
        claim.map(|claim| claims::reconcile(view, claim)).unwrap_or_default()
    }
}

/// The keys of the claims under a value of their index.
fn waiting(view: &View, value: &str) -> Vec<ObjectKey> {
    let claims = view.indexed::<PersistentVolumeClaim>(value);
    claims.map(|claim| ObjectKey::of(&claim.metadata)).collect()
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Means this very claim, as it is now.
pub(super) fn reference_to(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn key_of(reference: &ObjectReference) -> ObjectKey {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ObjectKey::new(text(&reference.namespace), text(&reference.name))
}

/// Whether a volume's reference means this very claim, or any of its name.
fn is_for(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let uid = reference.uid.as_deref().unwrap_or_default();
    key_of(reference) == ObjectKey::of(&claim.metadata)
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

fn has_annotation(meta: &ObjectMeta, name: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|all| all.contains_key(name))
}

fn annotate(meta: &mut ObjectMeta, name: &str, value: &str) -> bool {
    let annotations: &mut BTreeMap<String, String> = meta.annotations.get_or_insert_default();
    annotations.insert(name.into(), value.into()).as_deref() != Some(value)
}

fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    storage::class_of(claim.metadata.annotations.as_ref(), class)
}
