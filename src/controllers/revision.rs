//! Which ReplicaSet is a Deployment's newest, and the records that rollouts leave on it: the hash of
//! the template, the revision, and the sizes that scaling is relative to. `kubectl rollout history`
//! and `undo` read these.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use super::ownership::{annotation, controller_reference, name};
use super::proportion::{Bounds, age_key};

/// The label that keeps the pods of a Deployment's ReplicaSets apart.
pub const TEMPLATE_HASH: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that a ReplicaSet had before it became the newest again.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that its ReplicaSets do not inherit.
const NOT_INHERITED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The longest history of revisions kept, in characters.
const HISTORY_CHARACTERS: usize = 2_000;
/// The characters of a hash: safe in names, and no words arise.
const HASH_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const HASH_LENGTH: usize = 10;
/// Names of ReplicaSets leave room for the suffix of their pods' names.
const NAME_CHARACTERS: usize = 253 - 1 - HASH_LENGTH;

/// A Deployment's ReplicaSets: the one with its template, and the others by age.
pub struct Sets<'a> {
    pub new: Option<&'a ReplicaSet>,
    pub old: Vec<&'a ReplicaSet>,
}

impl<'a> Sets<'a> {
    /// Sorts the ReplicaSets that a Deployment owns. Of several with the template (a collision of
    /// two controllers, say) the oldest is the newest revision; the others are old.
    pub fn of(deployment: &Deployment, mut owned: Vec<&'a ReplicaSet>) -> Sets<'a> {
        owned.sort_by_key(|set| age_key(set));
        let template = deployment.spec.as_ref().map(|spec| without_hash(&spec.template));
        let position = owned.iter().position(|set| {
            let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(without_hash);
            own.is_some() && own == template
        });
        let new = position.map(|index| owned.remove(index));
        Sets { new, old: owned }
    }

    pub fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + Clone {
        self.new.into_iter().chain(self.old.iter().copied())
    }
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(TEMPLATE_HASH);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    }
    template.metadata = template.metadata.take().filter(|meta| *meta != ObjectMeta::default());
    template
}

/// A stable name for a template: a digest of its JSON with sorted keys and of the collision count.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let value = serde_json::to_value(template).unwrap_or_default();
    let mut digest = Sha256::new();
    digest.update(value.to_string());
    digest.update(collisions.to_be_bytes());
    let bytes = digest.finalize();
    let characters = bytes.iter().take(HASH_LENGTH);
    characters.map(|b| HASH_CHARACTERS[usize::from(*b) % HASH_CHARACTERS.len()] as char).collect()
}

/// The revision that an object records; 0 where it has none.
pub fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The revision of the newest ReplicaSet: one more than the others had, or what it has if that is
/// higher already.
pub fn new_revision(sets: &Sets) -> i64 {
    let old = sets.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
    let own = sets.new.map(|set| revision(&set.metadata)).unwrap_or(0);
    own.max(old + 1)
}

/// The ReplicaSet for a Deployment's present template.
pub fn new_replica_set(deployment: &Deployment, sets: &Sets, replicas: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let template_meta = template.metadata.get_or_insert_default();
    let labels = template_meta.labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.clone());
    let base: String = name(&deployment.metadata).chars().take(NAME_CHARACTERS).collect();
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{base}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    inherit(&mut set, deployment, new_revision(sets));
    record_sizes(&mut set, deployment);
    set
}

/// Brings the newest ReplicaSet's records up to date; answers whether something changed.
pub fn refresh(set: &mut ReplicaSet, deployment: &Deployment, sets: &Sets) -> bool {
    let before = (set.metadata.annotations.clone(), set.spec.clone());
    inherit(set, deployment, new_revision(sets));
    if let (Some(spec), Some(asked)) = (&mut set.spec, &deployment.spec) {
        let seconds = |value: Option<i32>| value.unwrap_or(0);
        if seconds(spec.min_ready_seconds) != seconds(asked.min_ready_seconds) {
            spec.min_ready_seconds = asked.min_ready_seconds;
        }
    }
    before != (set.metadata.annotations.clone(), set.spec.clone())
}

/// Copies annotations from the Deployment and sets the revision; an earlier one goes into the
/// history.
fn inherit(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_INHERITED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let own = annotations.get(REVISION).cloned();
    if own.as_deref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0) >= revision {
        return;
    }
    annotations.insert(REVISION.into(), revision.to_string());
    let Some(own) = own else { return };
    let history = match annotations.get(REVISION_HISTORY) {
        Some(history) => format!("{history},{own}"),
        None => own,
    };
    annotations.insert(REVISION_HISTORY.into(), shortened(history));
}

/// Drops the oldest revisions of a long history.
fn shortened(mut history: String) -> String {
    while history.len() > HISTORY_CHARACTERS {
        let Some((_, rest)) = history.split_once(',') else { break };
        history = rest.into();
    }
    history
}

/// Records what a ReplicaSet's size is relative to; answers whether something changed.
pub fn record_sizes(set: &mut ReplicaSet, deployment: &Deployment) -> bool {
    let bounds = Bounds::of(deployment);
    let annotations: &mut BTreeMap<_, _> = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, bounds.replicas), (MAX_REPLICAS, bounds.most())] {
        let value = value.to_string();
        changed |= annotations.get(key) != Some(&value);
        annotations.insert(key.into(), value);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_keeps_its_hash_and_a_collision_changes_it() {
        let template = PodTemplateSpec::default();
        assert_eq!(template_hash(&template, 0), template_hash(&template, 0));
        assert_ne!(template_hash(&template, 0), template_hash(&template, 1));
        assert_eq!(template_hash(&template, 0).len(), HASH_LENGTH);
    }
}
