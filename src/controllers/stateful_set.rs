//! StatefulSet: pods with names that stay, made and ended in order, each replaced under its name.
//!
//! A pod's name is its ordinal's, so that the API itself lets no second one be. `spec` resolves what
//! is asked for, `identity` says what a pod of an ordinal is, `claims` what it keeps, `step` what is
//! done next, and `history` keeps templates.
//! Source: k8s.io/kubernetes pkg/controller/statefulset.

mod claims;
mod identity;
mod spec;
mod step;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::spec::Spec;
use self::step::{Step, Version, is_running_and_ready};
use super::history::{self, History, revision_of};
use super::ownership::{
    claim, controlled_by_kind, controller_of, name, namespace as namespace_of, uid, usable_selector,
};
use super::plan::{Action, Outcome};
use super::pods::{available_in, is_terminating, phase};
use super::{Controller, Plan, namespace};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

pub struct StatefulSetController;

impl Controller for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<StatefulSet>() {
            return vec![change.key.clone()];
        }
        if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            return claims::sets_of(view, &change.key);
        }
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        let owners = [old, new].into_iter().flatten().filter_map(|one| owner_key(one.meta()));
        let mut keys: Vec<ObjectKey> = owners.collect();
        // One that could be adopted, or whose name is free now, whoever had it.
        if let (old, new) = change.typed::<Pod>()
            && let Some(pod) = new.or(old)
            && (new.is_none() || controller_of(&pod.metadata).is_none())
            && let Some((parent, _)) = identity::parent(&pod.metadata)
        {
            let set = view.get::<StatefulSet>(namespace_of(&pod.metadata), parent);
            keys.extend(set.map(|set| ObjectKey::of(&set.metadata)));
        }
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![
            Gvr::of::<StatefulSet>(),
            Gvr::of::<Pod>(),
            Gvr::of::<ControllerRevision>(),
            Gvr::of::<PersistentVolumeClaim>(),
        ]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<StatefulSet>(key) else { return plan };
        let Some(selector) = set.spec.as_ref().and_then(|spec| usable_selector(&spec.selector))
        else {
            return plan;
        };
        let own_uid = uid(&set.metadata);
        let candidates = view.owned_by::<Pod>(own_uid).chain(view.orphans::<Pod>(&key.namespace));
        let candidates = candidates.map(|pod| &**pod);
        let candidates = candidates.filter(|pod| identity::ordinal(set, pod).is_some());
        let (pods, claimed) = claim(&**set, &selector, candidates, &mut plan);
        let revisions = view.owned_by::<ControllerRevision>(own_uid);
        let revisions = revisions.chain(view.orphans(&key.namespace)).map(|one| &**one);
        let (revisions, adopted) = claim(&**set, &selector, revisions, &mut plan);
        if claimed || adopted {
            // They come back by their own change.
            return plan;
        }
        let ordinals = pods.iter().filter_map(|pod| Some((identity::ordinal(set, pod)?, *pod)));
        let pods: BTreeMap<i32, &Pod> = ordinals.collect();
        Work { set, pods, history: History::of(revisions), view, now }.run(&mut plan);
        plan
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<StatefulSet>(key) else { return plan };
        let set_name = name(&set.metadata);
        for outcome in outcomes {
            let pod = outcome.target.name.as_deref().unwrap_or_default();
            if outcome.target.resource == Gvr::of::<PersistentVolumeClaim>() {
                plan.notices.extend(told_of_claim(set, pod, outcome));
                continue;
            }
            if outcome.target.resource != Gvr::of::<Pod>() {
                continue;
            }
            let (verb, done, failed) = match outcome.action {
                Action::Create => ("create", "SuccessfulCreate", "FailedCreate"),
                Action::Delete => ("delete", "SuccessfulDelete", "FailedDelete"),
                _ => continue,
            };
            let what = format!("{verb} Pod {pod} in StatefulSet {set_name}");
            plan.notices.push(match &outcome.result {
                Ok(()) => Notice::normal(&**set, done, format!("{what} successful")),
                Err(error) if namespace::is_refusal_of_ending(error) => continue,
                Err(error) => {
                    Notice::warning(&**set, failed, format!("{what} failed error: {error}"))
                }
            });
        }
        plan
    }
}

/// What is told of a claim that was made (upstream's words).
fn told_of_claim(set: &StatefulSet, claim: &str, outcome: &Outcome) -> Option<Notice> {
    if outcome.action != Action::Create {
        return None;
    }
    let set_name = name(&set.metadata);
    // The template's name is before the set's.
    let at = claim.rfind(&format!("-{set_name}-")).map_or(0, |at| at + 1);
    let what = format!("create Claim {claim} Pod {} in StatefulSet {set_name}", &claim[at..]);
    match &outcome.result {
        Ok(()) => Some(Notice::normal(set, "SuccessfulCreate", format!("{what} success"))),
        Err(error) if namespace::is_refusal_of_ending(error) => None,
        Err(error) => {
            Some(Notice::warning(set, "FailedCreate", format!("{what} failed error: {error}")))
        }
    }
}

fn owner_key(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controlled_by_kind::<StatefulSet>(meta)?;
    Some(ObjectKey::new(namespace_of(meta), owner.name.as_str()))
}

/// One reconcile.
struct Work<'a> {
    set: &'a StatefulSet,
    pods: BTreeMap<i32, &'a Pod>,
    history: History<'a>,
    view: &'a View<'a>,
    now: Timestamp,
}

impl Work<'_> {
    fn run(&self, plan: &mut Plan) {
        let Some(spec) = &self.set.spec else { return };
        if spec.replicas.is_some_and(|replicas| replicas < 0) {
            // No validation lets it in: it is damage, and no reason to delete anything.
            return;
        }
        let resolved = Spec::of(spec);
        let collisions = self.set.status.as_ref().and_then(|status| status.collision_count);
        let is_ending = namespace::is_ending(self.view, namespace_of(&self.set.metadata));
        let is_deleted = self.set.metadata.deletion_timestamp.is_some();
        if is_deleted || is_ending {
            // What is left is counted, and nothing is begun.
            let status = self.set.status.clone().unwrap_or_default();
            let (current, update) = (status.current_revision, status.update_revision);
            return self.status(&resolved, current, update, collisions, plan);
        }
        let space = namespace_of(&self.set.metadata);
        let step = self.history.step(
            self.set,
            &spec.template,
            collisions.unwrap_or(0),
            history::HASH,
            |name| self.view.get::<ControllerRevision>(space, name).is_some(),
            plan,
        );
        let update = match step {
            history::Step::There(update) => update,
            history::Step::Planned => return,
            history::Step::Collision => {
                let mut changed = self.set.clone();
                let status = changed.status.get_or_insert_default();
                status.collision_count = Some(collisions.unwrap_or(0).saturating_add(1));
                return plan.update_status(&changed);
            }
        };
        let status = self.set.status.as_ref();
        let told = status.and_then(|status| status.current_revision.as_deref());
        let current = told.and_then(|told| self.history.named(told)).unwrap_or(update);
        let current_template = history::template(current);
        let (update, current) = (name(&update.metadata), name(&current.metadata));
        let step = Step {
            set: self.set,
            spec: &resolved,
            pods: &self.pods,
            current: Version {
                revision: current,
                template: current_template.as_ref().unwrap_or(&spec.template),
            },
            update: Version { revision: update, template: &spec.template },
            view: self.view,
            now: self.now,
        };
        step.plan(plan);
        self.status(&resolved, Some(current.into()), Some(update.into()), collisions, plan);
        let used: HashSet<&str> =
            self.pods.values().map(|pod| revision_of(&pod.metadata)).collect();
        let is_used = |name: &str| name == update || name == current || used.contains(name);
        self.history.clean_up(spec.revision_history_limit, is_used, plan);
    }

    fn status(
        &self,
        spec: &Spec,
        current: Option<String>,
        update: Option<String>,
        collision_count: Option<i32>,
        plan: &mut Plan,
    ) {
        let count = |filter: &dyn Fn(&Pod) -> bool| {
            let created = self.pods.values().filter(|pod| !phase(pod).is_empty());
            i32::try_from(created.filter(|pod| filter(pod)).count()).unwrap_or(i32::MAX)
        };
        let some = |count: i32| Some(count).filter(|count| *count > 0);
        let of = |revision: &Option<String>| {
            count(&|pod| {
                !is_terminating(pod) && revision.as_deref() == Some(revision_of(&pod.metadata))
            })
        };
        let mut status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: some(count(&is_running_and_ready)),
            available_replicas: Some(count(&|pod| {
                let wait = available_in(pod, spec.min_ready_seconds, self.now);
                is_running_and_ready(pod) && wait.is_some_and(|wait| wait.is_zero())
            })),
            current_replicas: some(of(&current)),
            updated_replicas: some(of(&update)),
            current_revision: current,
            update_revision: update,
            collision_count: Some(collision_count.unwrap_or(0)),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        // The update is done: what was new is current now.
        let all = some(status.replicas);
        if !spec.is_on_delete && status.updated_replicas == all && status.ready_replicas == all {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        if self.set.status.as_ref() == Some(&status) {
            return;
        }
        let mut changed = self.set.clone();
        changed.status = Some(status);
        plan.update_status(&changed);
        // First, as it is true even where a pod is refused.
        plan.writes.rotate_right(1);
    }
}
