//! A claim that a Pod uses, and a volume that is bound, are deleted only when that is over: what
//! admission put in their finalizers is taken away then.
//! Source: k8s.io/kubernetes pkg/controller/volume/pvcprotection, pvprotection.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::garbage_collector::without_finalizer;
use super::pods::node_name;
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::kinds::storage::{CLAIM_PROTECTION, VOLUME_PROTECTION, claims_of};
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

pub struct ClaimProtectionController;

impl Controller for ClaimProtectionController {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            return vec![change.key.clone()];
        }
        if change.resource != Gvr::of::<Pod>() {
            return Vec::new();
        }
        let (old, new) = change.typed::<Pod>();
        let gone = old.filter(|old| new.is_none_or(|new| new.metadata.uid != old.metadata.uid));
        let claims = gone.into_iter().flat_map(claims_of);
        let keys = claims.map(|claim| ObjectKey::new(change.key.namespace.as_str(), claim));
        keys.filter(|key| view.get_key::<PersistentVolumeClaim>(key).is_some()).collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<PersistentVolumeClaim>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(claim) = view.get_key::<PersistentVolumeClaim>(key) else { return plan };
        if !waits(&claim.metadata, CLAIM_PROTECTION) {
            return plan;
        }
        // A Pod without a node is not started with a claim that is being deleted.
        let mut pods = view.in_namespace::<Pod>(&key.namespace);
        let used = pods
            .any(|pod| node_name(pod).is_some() && claims_of(pod).any(|claim| claim == key.name));
        if !used {
            plan.writes.push(without_finalizer(&**claim, CLAIM_PROTECTION));
        }
        plan
    }
}

pub struct VolumeProtectionController;

impl Controller for VolumeProtectionController {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        let concerned = change.resource == Gvr::of::<PersistentVolume>();
        concerned.then(|| change.key.clone()).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<PersistentVolume>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(volume) = view.get_key::<PersistentVolume>(key) else { return plan };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if waits(&volume.metadata, VOLUME_PROTECTION) && phase != Some("Bound") {
            plan.writes.push(without_finalizer(&**volume, VOLUME_PROTECTION));
        }
        plan
    }
}

/// Whether an object that is being deleted is held by a finalizer.
fn waits(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some()
        && meta.finalizers.iter().flatten().any(|name| name == finalizer)
}
