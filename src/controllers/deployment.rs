//! Deployment: one ReplicaSet a revision of the template, rolled from one to the next.
//!
//! ```text
//!   owned ReplicaSets ─▶ claim ─▶ sort by template ─┬─ paused or resized ─▶ resize
//!                                                   ├─ no set of this template ─▶ create one
//!                                                   └─ otherwise ─▶ one step of the strategy
//!                                       then: records, status, old revisions beyond the limit
//! ```
//!
//! A rollback is nothing special: `kubectl rollout undo` puts an older template back, and the
//! ReplicaSet that has it becomes the newest again, with a new revision number. Sizes are decided in
//! `rollout`, conditions in `deployment_status`, records in `revision`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::deployment_status::{self, Step, is_paused};
use super::ownership::{
    annotation, claim, controlled_by_kind, controller_of, labels, name, namespace as namespace_of,
    uid, usable_selector,
};
use super::plan::{Action, Outcome};
use super::proportion::{Bounds, is_recreate};
use super::replica_set::wanted;
use super::revision::{self, DESIRED_REPLICAS, REVISION, Sets};
use super::rollout::{self, Scale};
use super::{Controller, Plan, namespace, pods};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::base::planted::planted;
use crate::client::Propagation;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// Old revisions kept where the spec does not say.
const DEFAULT_HISTORY: usize = 10;

pub struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Deployment>() {
            return vec![change.key.clone()];
        }
        if change.resource == Gvr::of::<ReplicaSet>() {
            return keys_of_set(change, view);
        }
        // Recreate waits for the old pods to be gone.
        match change.typed::<Pod>() {
            (Some(old), new) if new.is_none_or(pods::is_finished) => {
                keys_of_pod(old, view).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Deployment>(), Gvr::of::<ReplicaSet>(), Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(deployment) = view.get_key::<Deployment>(key) else { return plan };
        let Some(spec) = &deployment.spec else { return plan };
        if spec.replicas.is_some_and(|replicas| replicas < 0) {
            // No validation lets it in: it is damage, and no reason to delete anything.
            return plan;
        }
        let Some(selector) = usable_selector(&spec.selector) else {
            let why = "This deployment is selecting all pods. A non-empty selector is required.";
            plan.notices.push(Notice::warning(&**deployment, "SelectingAll", why));
            return plan;
        };
        let owned = view.owned_by::<ReplicaSet>(uid(&deployment.metadata));
        let candidates = owned.chain(view.orphans(&key.namespace)).map(|set| &**set);
        let (owned, claimed) = claim(&**deployment, &selector, candidates, &mut plan);
        if claimed {
            return plan;
        }
        let sets = Sets::of(deployment, owned);
        let work = Work { deployment, sets, view, now };
        if deployment.metadata.deletion_timestamp.is_some() {
            work.status(&Step::Resizing, &mut plan);
        } else if is_paused(deployment) || work.was_resized() {
            work.resize(&mut plan);
        } else {
            work.roll(&mut plan);
        }
        plan
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(deployment) = view.get_key::<Deployment>(key) else { return plan };
        let failed = outcomes.iter().find_map(|outcome| {
            let error = outcome.result.as_ref().err()?;
            let stale = error.is_conflict() || error.is_already_exists();
            (outcome.action == Action::Create && !stale).then_some(error)
        });
        let Some(error) = failed else { return plan };
        let text = format!("Failed to create new replica set: {error}");
        plan.notices.push(Notice::warning(&**deployment, "ReplicaSetCreateError", text.clone()));
        if let Some(changed) = deployment_status::with_create_error(deployment, text, now) {
            plan.update_status(&changed);
        }
        plan
    }
}

fn keys_of_set(change: &Changed, view: &View) -> Vec<ObjectKey> {
    let (old, new) = change.typed::<ReplicaSet>();
    let owners = [old, new].into_iter().flatten().filter_map(|set| {
        let owner = controlled_by_kind::<Deployment>(&set.metadata)?;
        Some(ObjectKey::new(namespace_of(&set.metadata), owner.name.as_str()))
    });
    let mut keys: Vec<ObjectKey> = owners.collect();
    if let Some(orphan) = new.filter(|set| controller_of(&set.metadata).is_none()) {
        let deployments = view.in_namespace::<Deployment>(namespace_of(&orphan.metadata));
        let matching = deployments.filter(|deployment| {
            let spec = deployment.spec.as_ref();
            let selector = spec.and_then(|spec| usable_selector(&spec.selector));
            selector.is_some_and(|selector| selector.matches(labels(&orphan.metadata)))
        });
        keys.extend(matching.map(|deployment| ObjectKey::of(&deployment.metadata)));
    }
    keys.dedup();
    keys
}

/// The Deployment of a pod's ReplicaSet, where its strategy looks at pods.
fn keys_of_pod(pod: &Pod, view: &View) -> Option<ObjectKey> {
    let set = controlled_by_kind::<ReplicaSet>(&pod.metadata)?;
    let set = view.get::<ReplicaSet>(namespace_of(&pod.metadata), &set.name)?;
    let owner = controlled_by_kind::<Deployment>(&set.metadata)?;
    let key = ObjectKey::new(namespace_of(&set.metadata), owner.name.as_str());
    is_recreate(view.get_key::<Deployment>(&key)?).then_some(key)
}

/// One reconcile.
struct Work<'a> {
    deployment: &'a Deployment,
    sets: Sets<'a>,
    view: &'a View<'a>,
    now: Timestamp,
}

impl Work<'_> {
    /// Whether the ReplicaSets were sized for another number of replicas.
    fn was_resized(&self) -> bool {
        let replicas = Bounds::of(self.deployment).replicas;
        self.sets.all().filter(|set| wanted(set) > 0).any(|set| {
            let recorded = annotation(&set.metadata, DESIRED_REPLICAS);
            recorded.and_then(|text| text.parse().ok()).is_some_and(|size: i32| size != replicas)
        })
    }

    fn resize(&self, plan: &mut Plan) {
        let scales = rollout::resize(self.deployment, &self.sets);
        let mut edits = Edits::default();
        for set in self.sets.all().filter(|set| wanted(set) > 0) {
            edits.change(set, |set| revision::record_sizes(set, self.deployment));
        }
        // Records are kept while paused too: an older template may be put back meanwhile.
        if self.refresh_records(&mut edits, plan) {
            return self.apply(scales, edits, plan);
        }
        self.apply(scales, edits, plan);
        self.status(&Step::Resizing, plan);
        if is_paused(self.deployment) {
            self.clean_up(plan);
        }
    }

    fn roll(&self, plan: &mut Plan) {
        let recreate = is_recreate(self.deployment);
        let held_back = recreate && self.old_pods_run();
        if self.sets.new.is_none() && !held_back && !(recreate && self.has_active_old()) {
            return self.create(plan);
        }
        let mut edits = Edits::default();
        if self.refresh_records(&mut edits, plan) {
            return self.apply(Vec::new(), edits, plan);
        }
        let scales = if recreate {
            rollout::recreate(self.deployment, &self.sets, held_back)
        } else {
            rollout::rolling(self.deployment, &self.sets)
        };
        self.apply(scales, edits, plan);
        self.status(&Step::Rolling, plan);
        self.clean_up(plan);
    }

    /// Creates the ReplicaSet of the present template, under a name that nothing else has.
    fn create(&self, plan: &mut Plan) {
        if namespace::is_ending(self.view, namespace_of(&self.deployment.metadata)) {
            return;
        }
        let size = rollout::new_size(self.deployment, &self.sets);
        let set = revision::new_replica_set(self.deployment, &self.sets, size);
        let set_name = name(&set.metadata);
        if self.view.get::<ReplicaSet>(namespace_of(&set.metadata), set_name).is_some() {
            // Another template has this hash, or another owner this ReplicaSet: hash anew.
            let mut changed = self.deployment.clone();
            let count = &mut changed.status.get_or_insert_default().collision_count;
            *count = Some(count.unwrap_or(0).saturating_add(1));
            return plan.update_status(&changed);
        }
        plan.create(&set);
        if size > 0 {
            plan.notices.push(self.scaled(set_name, 0, size));
        }
        plan.then();
        self.status(&Step::Created(set_name), plan);
    }

    /// Writes sizes and records.
    fn apply(&self, scales: Vec<Scale>, mut edits: Edits, plan: &mut Plan) {
        for scale in scales {
            let Scale { set, to } = scale;
            if wanted(set) != to {
                plan.notices.push(self.scaled(name(&set.metadata), wanted(set), to));
            }
            edits.change(set, |set| {
                let resized = wanted(set) != to;
                set.spec.get_or_insert_default().replicas = Some(to);
                revision::record_sizes(set, self.deployment) || resized
            });
        }
        for set in edits.0.values() {
            plan.update(set);
        }
    }

    fn scaled(&self, set: &str, from: i32, to: i32) -> Notice {
        let direction = if to > from { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {set} from {from} to {to}");
        Notice::normal(self.deployment, "ScalingReplicaSet", text)
    }

    /// Brings the records of the newest ReplicaSet up to date. Answers whether the Deployment is
    /// written for it: its status follows when that is seen, as both at once would conflict.
    fn refresh_records(&self, edits: &mut Edits, plan: &mut Plan) -> bool {
        let Some(new) = self.sets.new else { return false };
        edits.change(new, |set| revision::refresh(set, self.deployment, &self.sets));
        self.record_revision(plan)
    }

    /// Keeps the Deployment's own revision that of its newest ReplicaSet.
    fn record_revision(&self, plan: &mut Plan) -> bool {
        let revision = revision::new_revision(&self.sets).to_string();
        if annotation(&self.deployment.metadata, REVISION) == Some(&revision) {
            return false;
        }
        let mut changed = self.deployment.clone();
        changed.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
        // Annotations count for the generation, but not those that are written with the status.
        plan.update_status(&changed);
        true
    }

    fn status(&self, step: &Step, plan: &mut Plan) {
        let status = deployment_status::compute(self.deployment, &self.sets, step, self.now);
        if let Some(wait) = deployment_status::deadline_in(self.deployment, &status, self.now) {
            plan.again_after(wait);
        }
        if self.deployment.status.as_ref() != Some(&status) {
            let mut changed = self.deployment.clone();
            changed.status = Some(status);
            plan.update_status(&changed);
        }
    }

    /// Deletes old revisions beyond the limit, once the rollout is complete.
    fn clean_up(&self, plan: &mut Plan) {
        let status = self.deployment.status.as_ref();
        if !status.is_some_and(|status| deployment_status::is_complete(self.deployment, status)) {
            return;
        }
        let spec = self.deployment.spec.as_ref();
        let limit = spec.and_then(|spec| spec.revision_history_limit);
        let limit = limit.map_or(DEFAULT_HISTORY, |limit| usize::try_from(limit).unwrap_or(0));
        let lives = |set: &&ReplicaSet| set.metadata.deletion_timestamp.is_none();
        let mut old: Vec<&ReplicaSet> = self.sets.old.iter().copied().filter(lives).collect();
        let surplus = old.len().saturating_sub(limit);
        old.sort_by_key(|set| revision::revision(&set.metadata));
        for set in old.into_iter().take(surplus).filter(|set| is_spent(set)) {
            plan.delete_version(set, Propagation::Background);
        }
    }

    fn has_active_old(&self) -> bool {
        self.sets.old.iter().any(|set| wanted(set) > 0)
    }

    /// Whether pods of other revisions still run. What the ReplicaSets tell counts too: a pod that
    /// was just created may not be seen yet, and its ReplicaSet tells nothing before it is.
    fn old_pods_run(&self) -> bool {
        if planted("Recreate does not wait for old pods") {
            return false;
        }
        if self.sets.old.iter().any(|set| !is_empty(set)) {
            return true;
        }
        let pods = |set: &&ReplicaSet| self.view.owned_by::<Pod>(uid(&set.metadata));
        self.sets.old.iter().flat_map(pods).any(|pod| !pods::is_finished(pod))
    }
}

/// Scaled to nothing, and seen to be.
fn is_spent(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation);
    wanted(set) == 0
        && set.status.as_ref().is_none_or(|status| status.replicas == 0)
        && observed >= set.metadata.generation
}

/// Tells that it has no pods, not even ones that are ending.
fn is_empty(set: &ReplicaSet) -> bool {
    let ending = set.status.as_ref().and_then(|status| status.terminating_replicas);
    is_spent(set) && ending.unwrap_or(0) == 0
}

/// ReplicaSets to be written, by name: several changes of one make one write.
#[derive(Default)]
struct Edits(BTreeMap<String, ReplicaSet>);

impl Edits {
    /// Changes a ReplicaSet; `edit` answers whether it did.
    fn change(&mut self, set: &ReplicaSet, edit: impl FnOnce(&mut ReplicaSet) -> bool) {
        let key = name(&set.metadata);
        let mut changed = self.0.get(key).unwrap_or(set).clone();
        if edit(&mut changed) {
            self.0.insert(key.into(), changed);
        }
    }
}
