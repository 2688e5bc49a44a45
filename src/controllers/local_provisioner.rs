//! Volumes that are made when a claim asks for one: directories of the node that the scheduler
//! chose, or of any node that fits. This controller writes the PersistentVolume; the node makes the
//! directory when the first Pod mounts it, with a finalizer from then on, and removes both when the
//! volume is deleted.
//!
//! ```text
//!   claim of our class ─▶ (its node is known) ─▶ volume for it ─▶ bound (persistent_volume)
//!   volume released, policy Delete ─▶ deleted ─▶ its node removes the directory and our finalizer
//!                    policy Retain ─▶ left alone, without the finalizer
//! ```
//!
//! Annotations, finalizer and events are those of upstream's external provisioners
//! (sig-storage-lib-external-provisioner). A volume's size is a number: nothing holds a directory
//! to it, so a claim grows by nothing but a new number.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::garbage_collector::without_finalizer;
use super::node_lifecycle::ready;
use super::ownership::{annotation, labels, name, uid};
use super::persistent_volume::reference_to;
use super::plan::{Write, patch_metas};
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::kinds::storage::{
    self, FILESYSTEM, HOSTNAME, LOCAL_PROVISIONER, PROVISIONED_BY, PROVISIONER,
    PROVISIONER_FINALIZER, SELECTED_NODE, STORAGE, VOLUMES_DIR, WAIT_FOR_FIRST_CONSUMER,
};
use crate::api::kinds::{persistent_volume_claim, resources};
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// Makes and deletes volumes. Keys without a namespace are volumes.
pub struct LocalProvisioner;

impl Controller for LocalProvisioner {
    fn name(&self) -> &'static str {
        "local-provisioner"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            return vec![change.key.clone()];
        }
        if change.resource == Gvr::of::<PersistentVolume>() {
            let (old, new) = change.typed::<PersistentVolume>();
            let claims = [old, new].into_iter().flatten().filter_map(claim_key);
            return std::iter::once(change.key.clone()).chain(claims).collect();
        }
        if change.resource == Gvr::of::<StorageClass>() {
            return waiting(view, &change.key.name);
        }
        if change.resource != Gvr::of::<Node>() {
            return Vec::new();
        }
        let (old, new) = change.typed::<Node>();
        let takes = |node: Option<&Node>| node.is_some_and(takes_volumes);
        let mut keys = Vec::new();
        if takes(new) && !takes(old) || new.is_none() {
            let classes = view.all::<StorageClass>().filter(|class| is_ours(class));
            keys.extend(classes.flat_map(|class| waiting(view, name(&class.metadata))));
        }
        if new.is_none() {
            let left = view.all::<PersistentVolume>().filter(|volume| {
                volume.metadata.deletion_timestamp.is_some()
                    && storage::local_node(volume) == Some(&*change.key.name)
            });
            keys.extend(left.map(|volume| ObjectKey::of(&volume.metadata)));
        }
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<PersistentVolumeClaim>(), Gvr::of::<PersistentVolume>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        if key.namespace.is_empty() {
            if let Some(volume) = view.get_key::<PersistentVolume>(key) {
                settle_volume(view, volume, &mut plan);
            }
        } else if let Some(claim) = view.get_key::<PersistentVolumeClaim>(key) {
            settle_claim(view, claim, &mut plan);
        }
        plan
    }
}

fn is_ours(class: &StorageClass) -> bool {
    class.provisioner == LOCAL_PROVISIONER
}

fn waiting(view: &View, class: &str) -> Vec<ObjectKey> {
    let claims = view.indexed::<PersistentVolumeClaim>(&persistent_volume_claim::of_class(class));
    claims.map(|claim| ObjectKey::of(&claim.metadata)).collect()
}

fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(claim.namespace.as_deref()?, claim.name.as_deref()?))
}

fn class_of<'v>(view: &'v View, claim: &PersistentVolumeClaim) -> Option<&'v StorageClass> {
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = storage::class_of(claim.metadata.annotations.as_ref(), named);
    view.get::<StorageClass>("", class).map(|class| &**class)
}

fn settle_claim(view: &View, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let Some(spec) = &claim.spec else { return };
    let Some(class) = class_of(view, claim).filter(|class| is_ours(class)) else { return };
    if claim.metadata.deletion_timestamp.is_some() {
        return;
    }
    match spec.volume_name.as_deref().filter(|volume| !volume.is_empty()) {
        Some(volume) => grow(view, claim, class, volume, plan),
        // The binder asks for a volume by this annotation, when it found none.
        None if annotation(&claim.metadata, PROVISIONER) == Some(LOCAL_PROVISIONER) => {
            provision(view, claim, class, plan);
        }
        None => {}
    }
}

fn provision(view: &View, claim: &PersistentVolumeClaim, class: &StorageClass, plan: &mut Plan) {
    let volume_name = format!("pvc-{}", uid(&claim.metadata));
    if view.get::<PersistentVolume>("", &volume_name).is_some() {
        return;
    }
    let node = match storage::local_refusal(claim, class) {
        // The scheduler knows that too, and chooses no node.
        Some(why) => Err(why.to_string()),
        None => choose(view, claim, class),
    };
    match node {
        Ok(None) => {}
        Ok(Some(node)) => {
            plan.create(&new_volume(claim, class, node, &volume_name));
            let key = ObjectKey::of(&claim.metadata);
            let text = format!("External provisioner is provisioning volume for claim \"{key}\"");
            plan.notices.push(Notice::normal(claim, "Provisioning", text));
            let text = format!("Successfully provisioned volume {volume_name}");
            plan.notices.push(Notice::normal(claim, "ProvisioningSucceeded", text));
        }
        Err(why) => {
            let text = format!(
                "failed to provision volume with StorageClass {:?}: {why}",
                name(&class.metadata)
            );
            plan.notices.push(Notice::warning(claim, "ProvisioningFailed", text));
            // The scheduler chooses again.
            if annotation(&claim.metadata, SELECTED_NODE).is_some() {
                let gone = json!({"annotations": {SELECTED_NODE: null}});
                plan.writes.push(patch_metas(claim, gone));
            }
        }
    }
}

/// The node that the scheduler chose, or one for the claim; `None` while the scheduler is to choose.
fn choose<'v>(
    view: &'v View,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
) -> Result<Option<&'v Node>, String> {
    if class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER) {
        let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) else { return Ok(None) };
        let node = view.get::<Node>("", selected);
        let node = node.ok_or_else(|| format!("node {selected:?} not found"))?;
        if annotation(&node.metadata, VOLUMES_DIR).is_none() {
            return Err(format!("node {selected:?} keeps no volumes"));
        }
        return Ok(Some(node));
    }
    // The same node for the same claim, and different ones for different claims.
    let weight = |node: &Node| {
        Sha256::digest(format!("{}/{}", uid(&claim.metadata), name(&node.metadata))).to_vec()
    };
    let fitting = view.all::<Node>().filter(|node| takes_volumes(node) && is_within(class, node));
    let chosen = fitting.max_by_key(|node| weight(node));
    chosen.map(|node| Some(&**node)).ok_or_else(|| "no node can have it".to_string())
}

/// Whether a node may be chosen by us: it keeps volumes, is ready, and takes pods.
fn takes_volumes(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let mut taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    annotation(&node.metadata, VOLUMES_DIR).is_some()
        && ready(node).is_some_and(|ready| ready.status == "True")
        && spec.is_none_or(|spec| spec.unschedulable != Some(true))
        && taints.all(|taint| taint.effect == "PreferNoSchedule")
}

/// Whether a class allows volumes on a node.
fn is_within(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let labels = labels(&node.metadata);
    terms.is_empty() || storage::topology_matches(terms, labels)
}

fn new_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
    volume_name: &str,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let capacity = requests.into_iter().filter(|(name, _)| name == STORAGE).collect();
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into());
    let hostname = labels(&node.metadata).get(HOSTNAME).map(String::as_str);
    let hostname = hostname.unwrap_or_else(|| name(&node.metadata)).to_string();
    let dir = annotation(&node.metadata, VOLUMES_DIR).unwrap_or_default();
    let on_node = NodeSelectorRequirement {
        key: HOSTNAME.into(),
        operator: "In".into(),
        values: Some(vec![hostname]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![on_node]), match_fields: None };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name.into()),
            annotations: Some([(PROVISIONED_BY.into(), LOCAL_PROVISIONER.into())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(capacity),
            claim_ref: Some(reference_to(claim)),
            local: Some(LocalVolumeSource {
                fs_type: None,
                path: format!("{}/{volume_name}", dir.trim_end_matches('/')),
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some(FILESYSTEM.into()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// A bound claim that asks for more gets the number (its class was asked at admission).
fn grow(
    view: &View,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    volume: &str,
    plan: &mut Plan,
) {
    let Some(volume) = view.get::<PersistentVolume>("", volume) else { return };
    let own = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_own = own.is_some_and(|own| own.uid == claim.metadata.uid);
    if storage::local_node(volume).is_none()
        || !is_own
        || class.allow_volume_expansion != Some(true)
    {
        return;
    }
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let Some(text) = requests.and_then(|requests| requests.get(STORAGE)) else { return };
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    if resources::sums(requests).get(STORAGE) <= resources::sums(capacity).get(STORAGE) {
        return;
    }
    let mut grown = PersistentVolume::clone(volume);
    let spec = grown.spec.get_or_insert_default();
    spec.capacity.get_or_insert_default().insert(STORAGE.into(), text.clone());
    plan.update(&grown);
    plan.notices.push(Notice::normal(claim, "VolumeResizeSuccessful", "Resize volume succeeded"));
}

fn settle_volume(view: &View, volume: &PersistentVolume, plan: &mut Plan) {
    let Some(node) = storage::local_node(volume) else { return };
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let mut finalizers = volume.metadata.finalizers.iter().flatten();
    let is_kept = finalizers.any(|one| one == PROVISIONER_FINALIZER);
    let is_deleted = volume.metadata.deletion_timestamp.is_some();
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    match (policy == Some("Delete"), is_deleted) {
        // What is retained is the administrator's.
        (false, _) if is_kept => {
            plan.writes.push(without_finalizer(volume, PROVISIONER_FINALIZER));
        }
        (true, false) if phase == Some("Released") => plan.delete(volume),
        // A node that is gone has taken the directory along.
        (true, true) if is_kept && phase != Some("Bound") && !is_there(view, node) => {
            let target = crate::client::Target::one::<Node>("", node);
            plan.writes.push(Write::Absent { target, uid: None });
            plan.then();
            plan.writes.push(without_finalizer(volume, PROVISIONER_FINALIZER));
        }
        _ => {}
    }
}

fn is_there(view: &View, hostname: &str) -> bool {
    view.get::<Node>("", hostname).is_some()
        || view
            .all::<Node>()
            .any(|node| labels(&node.metadata).get(HOSTNAME).is_some_and(|own| own == hostname))
}
