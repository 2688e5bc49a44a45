//! The history of a StatefulSet's or DaemonSet's template: one ControllerRevision for each, which
//! `kubectl rollout history` and `undo` read. A template that comes back is its old revision with a
//! new number.
//! Source: k8s.io/kubernetes pkg/controller/history.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::Plan;
use super::ownership::{controller_reference, name};
use super::revision::template_hash;
use crate::api::resource::Kind;
use crate::client::Propagation;

/// On the pods of a revision, and on the revisions of DaemonSets.
pub const REVISION_HASH: &str = "controller-revision-hash";
/// On the revisions of StatefulSets.
pub const HASH: &str = "controller.kubernetes.io/hash";
/// Revisions kept where the spec does not say.
const DEFAULT_KEPT: usize = 10;
/// Names of revisions leave room for the hash.
const NAME_CHARACTERS: usize = 223;

/// An owner's revisions, from the lowest number on.
pub struct History<'a>(Vec<&'a ControllerRevision>);

/// What is to be done before a template has its revision.
pub enum Step<'a> {
    /// It has it.
    There(&'a ControllerRevision),
    /// The plan makes it, or gives it its number.
    Planned,
    /// Its name is taken by another: the owner counts a collision.
    Collision,
}

/// What a revision holds: a patch that puts the template back.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

impl<'a> History<'a> {
    pub fn of(mut revisions: Vec<&'a ControllerRevision>) -> History<'a> {
        revisions.sort_by_key(|one| (one.revision, one.metadata.name.as_deref()));
        History(revisions)
    }

    pub fn named(&self, wanted: &str) -> Option<&'a ControllerRevision> {
        self.0.iter().copied().find(|one| name(&one.metadata) == wanted)
    }

    /// The revisions that hold this; more than one where somebody made another.
    pub fn with(&self, data: &Value) -> impl DoubleEndedIterator<Item = &'a ControllerRevision> {
        let same =
            move |one: &&ControllerRevision| one.data.as_ref().is_some_and(|held| held.0 == *data);
        self.0.iter().copied().filter(same)
    }

    fn next_number(&self) -> i64 {
        self.0.last().map_or(1, |last| last.revision.saturating_add(1))
    }

    /// Plans the revision of the present template.
    pub fn step<O: Kind>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        collisions: i32,
        hash_label: &str,
        is_taken: impl Fn(&str) -> bool,
        plan: &mut Plan,
    ) -> Step<'a> {
        let data = data(template);
        if let Some(found) = self.with(&data).next_back() {
            if self.0.last().is_some_and(|last| last.metadata.uid == found.metadata.uid) {
                return Step::There(found);
            }
            let mut again = ControllerRevision::clone(found);
            again.revision = self.next_number();
            plan.update(&again);
            return Step::Planned;
        }
        let hash = template_hash(template, collisions);
        let owner_name: String = name(owner.metadata()).chars().take(NAME_CHARACTERS).collect();
        let revision_name = format!("{owner_name}-{hash}");
        if is_taken(&revision_name) {
            return Step::Collision;
        }
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let mut labels = labels.unwrap_or_default();
        labels.insert(hash_label.into(), hash);
        plan.create(&ControllerRevision {
            metadata: ObjectMeta {
                name: Some(revision_name),
                namespace: owner.metadata().namespace.clone(),
                labels: Some(labels),
                annotations: owner.metadata().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: self.next_number(),
        });
        Step::Planned
    }

    /// Deletes the oldest revisions that nobody uses, beyond the limit.
    pub fn clean_up(&self, limit: Option<i32>, is_used: impl Fn(&str) -> bool, plan: &mut Plan) {
        let limit = limit.map_or(DEFAULT_KEPT, |limit| usize::try_from(limit).unwrap_or(0));
        let mut unused = self.0.clone();
        unused.retain(|one| one.metadata.deletion_timestamp.is_none());
        unused.retain(|one| !is_used(name(&one.metadata)));
        let surplus = unused.len().saturating_sub(limit);
        for revision in &unused[..surplus] {
            plan.delete_version(*revision, Propagation::Background);
        }
    }
}

/// The template that a revision holds; `None` for data that is none of ours.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash in a revision's name.
pub fn hash_of(revision: &ControllerRevision) -> &str {
    let name = name(&revision.metadata);
    name.rsplit_once('-').map_or(name, |(_, hash)| hash)
}

/// The revision that a pod was made of: a name, or a hash, as its owner writes it.
pub fn revision_of(meta: &ObjectMeta) -> &str {
    meta.labels.as_ref().and_then(|labels| labels.get(REVISION_HASH)).map_or("", String::as_str)
}
