//! ResourceQuotas: what of a quota is used. Admission adds what is created by itself; here a new
//! quota is counted, and what went is taken off.
//! Source: k8s.io/kubernetes pkg/controller/resourcequota.
//!
//! Each kind has a watch of its own, so a table may not show yet what the quota was charged for. A
//! count from a table that is older than the quota may only raise what is used; it is looked at
//! again a little later.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::ownership::namespace;
use super::{Controller, Plan, pods};
use crate::api::ObjectKey;
use crate::api::kinds::quota_usage::{self, COUNTED};
use crate::api::kinds::resources::{self, Amounts, Sums};
use crate::api::quantity::Quantity;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View, parse_revision};

/// When to look again at what could not be settled, or was counted for the first time: until the
/// quota has its names, nothing is charged to it.
const AGAIN: Duration = Duration::from_secs(5);

pub struct ResourceQuotaController;

impl Controller for ResourceQuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<ResourceQuota>() {
            let (old, new) = change.typed::<ResourceQuota>();
            // What admission charges is right already.
            let wakes = new.is_some_and(|new| {
                old.is_none_or(|old| old.spec != new.spec) || held(new) != countable(new)
            });
            if wakes {
                return vec![change.key.clone()];
            }
        }
        if !COUNTED.contains(&change.resource) || !frees(change) {
            return Vec::new();
        }
        let quotas = view.in_namespace::<ResourceQuota>(&change.key.namespace);
        quotas.map(|quota| ObjectKey::of(&quota.metadata)).collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<ResourceQuota>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(quota) = view.get_key::<ResourceQuota>(key) else { return plan };
        let old = quota.status.clone().unwrap_or_default();
        let before = resources::sums(old.used.as_ref());
        let version = quota.metadata.resource_version.as_deref().unwrap_or_default();
        let version = parse_revision(version);
        let hard = countable(quota);
        let mut by_resource: BTreeMap<&Gvr, Sums> = BTreeMap::new();
        let mut used = Amounts::new();
        for name in hard.keys() {
            let Some(resource) = quota_usage::counted_by(name) else { continue };
            let usage = by_resource.entry(resource).or_insert_with(|| usage(view, quota, resource));
            let counted = usage.get(name).copied().unwrap_or(Quantity::ZERO);
            let is_behind = view.revision(resource) < version;
            let amount = match before.get(name) {
                Some(before) if *before == counted => *before,
                Some(before) if is_behind => {
                    plan.again_after(AGAIN);
                    counted.max(*before)
                }
                _ => counted,
            };
            used.insert(name.clone(), QuantityText(amount.to_string()));
        }
        let is_new = old.hard.clone().unwrap_or_default() != hard;
        if is_new {
            plan.again_after(AGAIN);
        }
        if is_new || resources::sums(Some(&used)) != before {
            let mut updated = ResourceQuota::clone(quota);
            let status = updated.status.get_or_insert_default();
            (status.hard, status.used) = (Some(hard), Some(used));
            plan.update_status(&updated);
        }
        plan
    }
}

/// What the quota holds objects against.
fn held(quota: &ResourceQuota) -> Amounts {
    quota.status.as_ref().and_then(|status| status.hard.clone()).unwrap_or_default()
}

/// What of its spec can be counted.
fn countable(quota: &ResourceQuota) -> Amounts {
    let mut hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    hard.retain(|name, _| quota_usage::counted_by(name).is_some());
    hard
}

/// Whether a change may make an object count for less.
fn frees(change: &Changed) -> bool {
    let (old, new) = change.typed::<Pod>();
    let finished = |pod: Option<&Pod>| pod.is_some_and(pods::is_finished);
    let (before, after) = change.typed::<Service>();
    let kind = |service: Option<&Service>| service.and_then(|s| s.spec.as_ref()?.type_.clone());
    change.new.is_none()
        || finished(old) != finished(new)
        || before.is_some() && kind(before) != kind(after)
}

/// What a namespace's objects of one resource count for in a quota.
fn usage(view: &View, quota: &ResourceQuota, resource: &Gvr) -> Sums {
    let namespace = namespace(&quota.metadata);
    let mut total = Sums::new();
    if *resource == Gvr::of::<Pod>() {
        let pods = view.in_namespace::<Pod>(namespace);
        pods.filter(|pod| quota_usage::selects_pod(quota, pod))
            .for_each(|pod| resources::add(&mut total, &quota_usage::of_pod(pod)));
    } else if quota_usage::is_scoped(quota) {
        return total;
    } else if *resource == Gvr::of::<Service>() {
        let services = view.in_namespace::<Service>(namespace);
        services.for_each(|one| resources::add(&mut total, &quota_usage::of_service(one)));
    } else {
        let count = i64::try_from(view.count_in(resource, namespace)).unwrap_or(i64::MAX);
        let names = quota_usage::of_object(resource).into_keys();
        total.extend(names.map(|name| (name, Quantity::from_value(count))));
    }
    total
}
