//! PodDisruptionBudgets as far as preemption cares: which of the pods that could be evicted exceed
//! what their budgets allow. Budgets are kept where there is a choice, and exceeded where there is
//! none (upstream's filterPodsWithPDBViolation).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::api::ObjectKey;
use crate::api::selector::Selector;

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// All budgets, by namespace and name.
#[derive(Clone, Default)]
pub struct Budgets {
    by_namespace: HashMap<String, BTreeMap<String, Budget>>,
}

#[derive(Clone)]
struct Budget {
    selector: Selector,
    /// How many of its pods may go now, less those that were decided to go since.
    allowed: i32,
    /// Names of pods whose eviction was counted already.
    disrupted: BTreeSet<String>,
}

impl Budget {
    fn counts(&self, pod: &ObjectKey, labels: &Labels) -> bool {
        self.selector.matches(labels) && !self.disrupted.contains(&pod.name)
    }
}

impl Budgets {
    /// Takes a budget's new state, or its end.
    pub fn set(&mut self, key: &ObjectKey, budget: Option<&PodDisruptionBudget>) {
        let Some(budget) = budget else {
            if let Some(all) = self.by_namespace.get_mut(&key.namespace) {
                all.remove(&key.name);
                if all.is_empty() {
                    self.by_namespace.remove(&key.namespace);
                }
            }
            return;
        };
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let info = Budget {
            // An absent selector guards nothing, an empty one every pod of the namespace.
            selector: Selector::from_typed(selector).unwrap_or_else(|_| Selector::nothing()),
            allowed: status.map_or(0, |status| status.disruptions_allowed),
            disrupted: disrupted.into_iter().flat_map(|pods| pods.keys().cloned()).collect(),
        };
        let all = self.by_namespace.entry(key.namespace.clone()).or_default();
        all.insert(key.name.clone(), info);
    }

    /// Whether each of these pods, if they go in this order, exceeds a budget.
    pub fn exceeded<'a>(
        &self,
        pods: impl Iterator<Item = (&'a ObjectKey, &'a Labels)>,
    ) -> Vec<bool> {
        let mut left: HashMap<(&str, &str), i32> = HashMap::new();
        let mut exceeds = |(pod, labels): (&'a ObjectKey, &'a Labels)| {
            let Some((space, all)) = self.by_namespace.get_key_value(&pod.namespace) else {
                return false;
            };
            let mut exceeded = false;
            for (name, budget) in all.iter().filter(|(_, one)| one.counts(pod, labels)) {
                let left = left.entry((space, name)).or_insert(budget.allowed);
                *left -= 1;
                exceeded |= *left < 0;
            }
            exceeded
        };
        pods.map(&mut exceeds).collect()
    }

    /// Counts a pod that was decided to go, until its budgets' status says so. Answers whether it
    /// has one.
    pub fn charge(&mut self, pod: &ObjectKey, labels: &Labels) -> bool {
        let all = self.by_namespace.get_mut(&pod.namespace).into_iter().flatten();
        let mut charged = false;
        for (_, budget) in all.filter(|(_, budget)| budget.counts(pod, labels)) {
            budget.allowed -= 1;
            charged = true;
        }
        charged
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(selector: Value, allowed: i32) -> PodDisruptionBudget {
        let status = json!({"disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 1,
            "expectedPods": 3, "disruptedPods": {"gone": "2026-01-01T00:00:00Z"}});
        serde_json::from_value(json!({"spec": {"selector": selector}, "status": status})).unwrap()
    }

    #[test]
    fn pods_exceed_budgets_in_their_order() {
        let mut budgets = Budgets::default();
        let web: Labels = [("app".to_string(), "web".to_string())].into();
        let (none, names) = (Labels::new(), ["gone", "a", "b", "c"]);
        let keys = names.map(|name| ObjectKey::new("n", name));
        let exceeded = |budgets: &Budgets, labels: &Labels| {
            budgets.exceeded(keys.iter().map(|key| (key, labels)))
        };
        assert_eq!(exceeded(&budgets, &web), [false; 4]);
        let key = ObjectKey::new("n", "budget");
        budgets.set(&key, Some(&budget(json!({"matchLabels": {"app": "web"}}), 2)));
        assert_eq!(exceeded(&budgets, &web), [false, false, false, true]);
        assert_eq!(exceeded(&budgets, &none), [false; 4]);
        assert!(budgets.charge(&keys[1], &web) && !budgets.charge(&keys[0], &web));
        assert_eq!(exceeded(&budgets, &web), [false, false, true, true]);
        budgets.set(&key, Some(&budget(json!({}), 0)));
        assert_eq!(exceeded(&budgets, &none), [false, true, true, true]);
        budgets.set(&key, None);
        assert_eq!(exceeded(&budgets, &none), [false; 4]);
    }
}
