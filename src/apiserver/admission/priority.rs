//! The priority of a Pod follows from its class (upstream's Priority admission). There are no
//! PriorityClass objects yet, only the two that every cluster has; a Pod without a class has
//! priority 0.

use serde_json::Value;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::{ApiError, Object};

/// The classes of every cluster (k8s.io/kubernetes/pkg/apis/scheduling/v1/helpers.go).
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// What pods that name no policy have.
const PREEMPTION_POLICY: &str = "PreemptLowerPriority";

pub struct Priority;

impl Admitter for Priority {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        match attributes.verb {
            Verb::Create => {}
            Verb::Update => {
                keep(attributes, object, outcome);
                return Ok(());
            }
            Verb::Delete => return Ok(()),
        }
        let refused = |why: String| {
            let call = attributes.call;
            Err(ApiError::forbidden(&call.info.gvr, &call.name, why))
        };
        let Some(spec) = object.fields_mut().get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default();
        let priority = match SYSTEM_CLASSES.iter().find(|(name, _)| *name == class) {
            Some((_, value)) => *value,
            None if class.is_empty() => 0,
            None => return refused(format!("no PriorityClass with name {class} was found")),
        };
        if let Some(given) = spec.get("priority").and_then(Value::as_i64)
            && given != priority
        {
            return refused(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; \
                 priority admission controller computed {priority} from the given PriorityClass name"
            ));
        }
        spec.insert("priority".into(), priority.into());
        // `Never` asks for what is true of every pod so far, so it is taken where upstream, whose
        // classes decide, would refuse it.
        let policy = spec.entry("preemptionPolicy").or_insert(Value::Null);
        if policy.as_str().unwrap_or_default().is_empty() {
            *policy = PREEMPTION_POLICY.into();
        }
        outcome.changed = true;
        Ok(())
    }
}

/// An update that leaves them out keeps both values.
fn keep(attributes: &Attributes, object: &mut Object, outcome: &mut Outcome) {
    let spec = object.fields_mut().get_mut("spec").and_then(Value::as_object_mut);
    let (Some(spec), Some(old)) = (spec, attributes.old) else { return };
    for field in ["priority", "preemptionPolicy"] {
        let missing = spec.get(field).is_none_or(Value::is_null);
        if let Some(value) = old.at(&["spec", field]).filter(|_| missing) {
            spec.insert(field.into(), value.clone());
            outcome.changed = true;
        }
    }
}
