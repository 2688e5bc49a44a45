//! PodDisruptionBudget (policy/v1), and the condition that its status tells.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::{checks, conditions, labels, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};
use crate::api::tags;

const EVICTION_POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

impl Kind for PodDisruptionBudget {
    const META: KindMeta = KindMeta {
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        status: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn tags(&self) -> Vec<String> {
        tags::of_budget(self)
    }

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_with(PodDisruptionBudgetStatus::default);
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return errors.required(&path, "") };
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.invalid(&path, spec, detail);
        }
        for (field, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            let Some(value) = value else { continue };
            let path = path.child(field);
            workload::validate_count_or_percent(errors, &path, value);
            workload::validate_no_more_than_all(errors, &path, value);
        }
        if let Some(selector) = &spec.selector {
            labels::validate_selector(errors, &path.child("selector"), selector);
        }
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let path = path.child("unhealthyPodEvictionPolicy");
            checks::one_of(errors, &path, policy, EVICTION_POLICIES);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::new("status");
        let list = status.conditions.as_deref().unwrap_or_default();
        conditions::validate(errors, &path.child("conditions"), list);
        for (field, value) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            checks::nonnegative(errors, &path.child(field), value);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Min Available", "string", "The pods that must be available."),
            Column::new("Max Unavailable", "string", "The pods that may be unavailable."),
            Column::new("Allowed Disruptions", "integer", "Pods that may be evicted now."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let text = |value: Option<IntOrString>| match value {
            Some(IntOrString::Int(count)) => count.to_string(),
            Some(IntOrString::String(text)) => text,
            None => "N/A".into(),
        };
        vec![
            table::name(&self.metadata),
            text(spec.min_available).into(),
            text(spec.max_unavailable).into(),
            self.status.as_ref().map_or(0, |status| status.disruptions_allowed).into(),
            table::age(&self.metadata, now),
        ]
    }
}

/// Tells by `disruptionsAllowed` whether anything may be evicted.
pub fn set_allowed_condition(status: &mut PodDisruptionBudgetStatus, now: Timestamp) {
    let (value, reason) = match status.disruptions_allowed > 0 {
        true => ("True", "SufficientPods"),
        false => ("False", "InsufficientPods"),
    };
    set_condition(status, value, reason, "", now);
}

/// Tells that the numbers of the status could not be found.
pub fn set_failed_condition(status: &mut PodDisruptionBudgetStatus, why: &str, now: Timestamp) {
    set_condition(status, "False", "SyncFailed", why, now);
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let observed_generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == "DisruptionAllowed");
    let since = old.map(|at| &conditions[at]).filter(|condition| condition.status == value);
    let condition = Condition {
        last_transition_time: since.map_or(Time(now), |old| old.last_transition_time.clone()),
        message: message.into(),
        observed_generation,
        reason: reason.into(),
        status: value.into(),
        type_: "DisruptionAllowed".into(),
    };
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}
