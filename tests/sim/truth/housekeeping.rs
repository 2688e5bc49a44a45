//! What must hold of pods that are nobody's, of budgets, of closed nodes and of what a schedule starts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::Instant;
use wasmfleet::api::ObjectKey;
use wasmfleet::api::selector::Selector;
use wasmfleet::client::cache::{Changed, View};

use super::State;
use super::jobs::is_set;
use super::read::*;

/// After so long the scheduler must have seen that a node was closed, whatever came late.
const CORDON_SEEN_AFTER: Duration = Duration::from_secs(40);
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// A pod that nobody made is adopted by nobody, and deleted by nobody.
pub fn check_bystander(state: &mut State, change: &Changed) {
    if change.key.name != "bystander" {
        return;
    }
    let owned = |pod: &Pod| pod.metadata.owner_references.as_ref().is_some_and(|o| !o.is_empty());
    match change.typed::<Pod>().1 {
        None => state.violate("the bystander was deleted".into()),
        Some(pod) if pod.metadata.deletion_timestamp.is_some() => {
            state.violate("the bystander is being deleted".into());
        }
        Some(pod) if owned(pod) => {
            let owners = &pod.metadata.owner_references;
            state.violate(format!("the bystander was adopted: {owners:?}"));
        }
        Some(_) => {}
    }
}

/// Once there were enough pods, evictions leave enough. Nothing else takes pods away where stories
/// have budgets.
pub fn check_budgets(state: &mut State, view: &View, change: &Changed) {
    for budget in view.in_namespace::<PodDisruptionBudget>(&change.key.namespace) {
        let Some(spec) = &budget.spec else { continue };
        let Some(IntOrString::Int(least)) = spec.min_available else { continue };
        let Ok(selector) = Selector::from_typed(spec.selector.as_ref()) else { continue };
        let serves = |pod: &&Arc<Pod>| {
            let labels = pod.metadata.labels.as_ref();
            labels.is_some_and(|labels| selector.matches(labels)) && is_active(pod) && is_ready(pod)
        };
        let pods = view.in_namespace::<Pod>(&change.key.namespace);
        let serving = pods.filter(serves).count() as i32;
        let key = ObjectKey::of(&budget.metadata);
        if serving >= least {
            state.guarded.insert(key);
        } else if state.guarded.contains(&key) {
            state.violate(format!("{serving} pods are left of {least} that budget {key} wants"));
        }
    }
}

impl State {
    pub fn see_cordon(&mut self, change: &Changed) {
        let closed =
            |node: &Node| node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true));
        if change.typed::<Node>().1.is_some_and(closed) {
            self.cordoned.entry(change.key.name.clone()).or_insert_with(Instant::now);
        } else {
            self.cordoned.remove(&change.key.name);
        }
    }
}

/// Nobody comes to a node that is closed since long.
pub fn check_cordons(state: &mut State, change: &Changed) {
    let (old, new) = change.typed::<Pod>();
    let (before, node) = (old.map_or("", node_of), new.map_or("", node_of));
    let closed = state.cordoned.get(node).filter(|_| before.is_empty());
    let long = closed.is_some_and(|since| since.elapsed() > CORDON_SEEN_AFTER);
    if long && new.is_some_and(|pod| !is_daemon(pod)) {
        state.violate(format!("{} was bound to {node}, which is closed", change.key.name));
    }
}

/// No time starts two Jobs, and none beside another where that is forbidden.
pub fn check_starts(state: &mut State, view: &View) {
    for cron in view.all::<CronJob>() {
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let jobs: Vec<_> = view.owned_by::<Job>(uid).collect();
        let goes_on = |job: &&&Arc<Job>| !is_set(job, "Complete") && !is_set(job, "Failed");
        let active = jobs.iter().filter(goes_on).count();
        let policy = cron.spec.as_ref().and_then(|spec| spec.concurrency_policy.as_deref());
        if policy == Some("Forbid") && active > 1 {
            state.violate(format!("{active} Jobs of {} at once", name_of(&**cron)));
        }
        let mut times = BTreeSet::new();
        for job in jobs {
            let notes = job.metadata.annotations.as_ref();
            if let Some(time) = notes.and_then(|notes| notes.get(SCHEDULED))
                && !times.insert(time.clone())
            {
                state.violate(format!("two Jobs of {time}"));
            }
        }
    }
}
