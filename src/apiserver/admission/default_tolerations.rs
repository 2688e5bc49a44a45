//! Pods stay for five minutes on a node that stops answering, unless they say otherwise
//! (upstream's DefaultTolerationSeconds).

use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::{ApiError, Object};

/// How long a Pod stays on a node that is not ready or not reachable.
pub const TOLERATION_SECONDS: i64 = 300;

const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const EFFECT: &str = "NoExecute";

pub struct DefaultTolerations;

impl Admitter for DefaultTolerations {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if attributes.verb == Verb::Delete || !attributes.is("", "pods") {
            return Ok(());
        }
        let Some(spec) = object.fields_mut().get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        let list = spec.entry("tolerations").or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
        let Some(list) = list.as_array_mut() else { return Ok(()) };
        for taint in TAINTS {
            if !list.iter().any(|toleration| covers(toleration, taint)) {
                outcome.changed = true;
                list.push(json!({"key": taint, "operator": "Exists", "effect": EFFECT,
                    "tolerationSeconds": TOLERATION_SECONDS}));
            }
        }
        Ok(())
    }
}

/// Whether a toleration speaks of a taint: an empty key or effect means all of them.
fn covers(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or_default();
    matches!(text("key"), "") && text("operator") == "Exists" && effect_covers(text("effect"))
        || text("key") == taint && effect_covers(text("effect"))
}

fn effect_covers(effect: &str) -> bool {
    matches!(effect, "" | EFFECT)
}
