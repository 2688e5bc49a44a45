//! ResourceQuotas: what of a new quota is used, and counted anew now and then. What is created and
//! what goes is charged by admission, in the same commit.
//! Source: k8s.io/kubernetes pkg/controller/resourcequota.
//!
//! Pods are counted in the cache, whose table may not show yet what the quota was charged for. A
//! count from a table that is older than the quota may only raise what is used; it is looked at
//! again a little later. Everything else is counted as it is stored: a charge that comes between
//! changes the quota, and the status is not written.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::ownership::namespace;
use super::{Controller, Options, Plan, Stored};
use crate::api::ObjectKey;
use crate::api::kinds::quota_usage::{self, Counted, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES};
use crate::api::kinds::resources::{self, Amounts, Sums};
use crate::api::quantity::Quantity;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View, parse_revision};

/// When to look again at what could not be settled, or was counted for the first time: until the
/// quota has its names, nothing is charged to it.
const AGAIN: Duration = Duration::from_secs(5);

pub struct ResourceQuotaController {
    stored: Stored,
}

impl ResourceQuotaController {
    pub fn new(options: &Options) -> ResourceQuotaController {
        ResourceQuotaController { stored: options.stored.clone() }
    }

    /// What a namespace's objects of one resource count for in a quota.
    fn usage(&self, view: &View, quota: &ResourceQuota, resource: Counted) -> Sums {
        let namespace = namespace(&quota.metadata);
        let mut total = Sums::new();
        match resource {
            PODS => {
                let pods = view.in_namespace::<Pod>(namespace);
                pods.filter(|pod| quota_usage::selects_pod(quota, pod))
                    .for_each(|pod| resources::add(&mut total, &quota_usage::of_pod(pod)));
            }
            SERVICES | PERSISTENT_VOLUME_CLAIMS => {
                for raw in (self.stored)(resource, namespace) {
                    let usage = raw.object().and_then(|o| quota_usage::Usage::of(resource, &o));
                    match usage {
                        Ok(usage) if usage.is_in(quota) => resources::add(&mut total, &usage.sums),
                        Ok(_) => {}
                        Err(error) => tracing::warn!(%error, "a stored object counts for nothing"),
                    }
                }
            }
            _ if quota_usage::is_scoped(quota) => {}
            _ => {
                let count = (self.stored)(resource, namespace).len();
                let count = Quantity::from_value(i64::try_from(count).unwrap_or(i64::MAX));
                let names = quota_usage::of_any(resource).into_keys();
                total.extend(names.map(|name| (name, count)));
            }
        }
        total
    }
}

impl Controller for ResourceQuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        if change.resource != Gvr::of::<ResourceQuota>() {
            return Vec::new();
        }
        let (old, new) = change.typed::<ResourceQuota>();
        // What admission charges is right already.
        let wakes = new.is_some_and(|new| {
            old.is_none_or(|old| old.spec != new.spec) || held(new) != countable(new)
        });
        if wakes { vec![change.key.clone()] } else { Vec::new() }
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
        let is_behind = view.revision(&Gvr::of::<Pod>()) < parse_revision(version);
        let hard = countable(quota);
        let mut by_resource: BTreeMap<Counted, Sums> = BTreeMap::new();
        let mut used = Amounts::new();
        for name in hard.keys() {
            let Some(resource) = quota_usage::counted_by(name) else { continue };
            let usage =
                by_resource.entry(resource).or_insert_with(|| self.usage(view, quota, resource));
            let counted = usage.get(name).copied().unwrap_or(Quantity::ZERO);
            let amount = match before.get(name) {
                Some(before) if *before == counted => *before,
                Some(before) if resource == PODS && is_behind => {
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
