//! Claims that live and die with one Pod: made of the template in its volume, named after both, and
//! owned by the Pod, so that the garbage collector deletes them with it.
//! Source: k8s.io/kubernetes pkg/controller/volume/ephemeral, KEP-1698.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::ownership::{controller_of, controller_reference, name, uid};
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::kinds::storage::{claim_name, claim_of_template};
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

pub struct EphemeralVolumeController;

impl Controller for EphemeralVolumeController {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        let key = if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            // A claim that stood in the way is gone.
            let gone = change.old.as_ref().filter(|_| change.new.is_none());
            let owner = gone.and_then(|old| controller_of(old.meta())).map(|one| one.name.clone());
            owner.map(|owner| ObjectKey::new(change.key.namespace.as_str(), owner))
        } else {
            (change.resource == Gvr::of::<Pod>()).then(|| change.key.clone())
        };
        let wants = |key: &ObjectKey| view.get_key::<Pod>(key).is_some_and(|pod| has_any(pod));
        key.filter(wants).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.get_key::<Pod>(key) else { return plan };
        if pod.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes {
            let template = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref());
            let Some(template) = template else { continue };
            let Some(claim) = claim_name(Some(name(&pod.metadata)), volume) else { continue };
            match view.get::<PersistentVolumeClaim>(&key.namespace, &claim) {
                Some(found) if is_for(found, pod) => {}
                Some(_) => {
                    let text = format!(
                        "PVC {:?} was not created for pod {:?} (pod is not owner)",
                        format!("{}/{claim}", key.namespace),
                        key.to_string()
                    );
                    plan.notices.push(Notice::warning(&**pod, "FailedBinding", text));
                }
                None => {
                    let mut new = claim_of_template(template);
                    new.metadata.name = Some(claim.into_owned());
                    new.metadata.namespace = Some(key.namespace.clone());
                    new.metadata.owner_references = Some(vec![controller_reference(&**pod)]);
                    plan.create(&new);
                }
            }
        }
        plan
    }
}

fn has_any(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| volume.ephemeral.is_some())
}

/// Whether a claim was made for this very Pod.
fn is_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    controller_of(&claim.metadata).is_some_and(|owner| owner.uid == uid(&pod.metadata))
}
