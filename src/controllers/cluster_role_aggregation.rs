//! ClusterRole aggregation: a role with an `aggregationRule` shows the rules of the roles that it
//! gathers. For readers only: the server decides by the gathered roles themselves.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::api::selector::Selector;
use crate::client::cache::{Changed, View};

pub struct ClusterRoleAggregationController;

impl Controller for ClusterRoleAggregationController {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    /// Any role may be one of those that any other gathers; there are few.
    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource != Gvr::of::<ClusterRole>() {
            return Vec::new();
        }
        let gathering = view.all::<ClusterRole>().filter(|role| role.aggregation_rule.is_some());
        gathering.map(|role| ObjectKey::of(&role.metadata)).collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<ClusterRole>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(role) = view.get_key::<ClusterRole>(key) else { return plan };
        let Some(rules) = gathered(view, role) else { return plan };
        if role.rules.as_deref().unwrap_or_default() != rules.as_slice() {
            let mut changed = ClusterRole::clone(role);
            changed.rules = Some(rules);
            plan.update(&changed);
        }
        plan
    }
}

/// The rules of the roles that a role selects, by name, each rule once; `None` for a role that
/// gathers none.
fn gathered(view: &View, role: &ClusterRole) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.iter().flatten();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.filter_map(|one| Selector::from_typed(Some(one)).ok()) {
        for other in view.all::<ClusterRole>() {
            let labels = other.metadata.labels.clone().unwrap_or_default();
            if other.metadata.name == role.metadata.name || !selector.matches(&labels) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}
