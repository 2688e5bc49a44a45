//! The priority of a Pod follows from its class (upstream's Priority admission): the one that it
//! names, else the cluster's default one, else 0.

use serde_json::Value;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::priority_class::SYSTEM_CLASSES;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::read_error;
use crate::store::Key;

/// A class as Pods get it.
#[derive(Default)]
struct Class {
    name: String,
    value: i64,
    preemption_policy: Option<String>,
}

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
        let named = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default();
        let class = match named {
            "" => default_class(attributes)?.unwrap_or_default(),
            named => match class_named(attributes, named)? {
                Some(class) => class,
                None => return refused(format!("no PriorityClass with name {named} was found")),
            },
        };
        let priority = class.value;
        if let Some(given) = spec.get("priority").and_then(Value::as_i64)
            && given != priority
        {
            return refused(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; \
                 priority admission controller computed {priority} from the given PriorityClass name"
            ));
        }
        spec.insert("priority".into(), priority.into());
        if !class.name.is_empty() {
            spec.insert("priorityClassName".into(), class.name.into());
        }
        // `Never` asks for what is true of every pod so far, so it is taken where upstream, whose
        // classes decide, would refuse it.
        let policy = spec.entry("preemptionPolicy").or_insert(Value::Null);
        if policy.as_str().unwrap_or_default().is_empty() {
            let of_class = class.preemption_policy.filter(|policy| !policy.is_empty());
            *policy = of_class.map_or_else(|| PREEMPTION_POLICY.into(), Value::from);
        }
        outcome.changed = true;
        Ok(())
    }

    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        check_default(attributes, object)
    }
}

/// Only one class is everybody's (upstream's rule).
fn check_default(attributes: &Attributes, object: &Object) -> Result<(), ApiError> {
    let is_class = attributes.is("scheduling.k8s.io", "priorityclasses");
    let is_default = object.get("globalDefault") == Some(&Value::Bool(true));
    if !is_class || !is_default || attributes.verb == Verb::Delete {
        return Ok(());
    }
    match default_class(attributes)? {
        Some(other) if other.name != object.name() => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name
            );
            Err(ApiError::forbidden(&attributes.call.info.gvr, object.name(), why))
        }
        _ => Ok(()),
    }
}

fn class_of(object: &Object) -> Class {
    let text = |field: &str| object.get(field).and_then(Value::as_str).map(str::to_string);
    Class {
        name: object.name().to_string(),
        value: object.get("value").and_then(Value::as_i64).unwrap_or_default(),
        preemption_policy: text("preemptionPolicy"),
    }
}

/// The stored class, or one of those that every cluster has.
fn class_named(attributes: &Attributes, name: &str) -> Result<Option<Class>, ApiError> {
    let key = Key::new(&["scheduling.k8s.io", "priorityclasses", "", name]);
    if let Some(entry) = attributes.server.store.get(&key).map_err(read_error)? {
        return Ok(Some(class_of(&Raw(entry.value).object()?)));
    }
    let system = SYSTEM_CLASSES.iter().find(|(system, _)| *system == name);
    Ok(system.map(|(name, value)| Class {
        name: name.to_string(),
        value: i64::from(*value),
        preemption_policy: None,
    }))
}

/// Of several defaults the lowest (upstream's rule). Classes are few; only those that say so are
/// read.
fn default_class(attributes: &Attributes) -> Result<Option<Class>, ApiError> {
    const MARK: &[u8] = br#""globalDefault":true"#;
    let prefix = Key::new(&["scheduling.k8s.io", "priorityclasses"]);
    let page = attributes.server.store.list(&prefix, None, 0, None).map_err(read_error)?;
    let marked =
        page.entries.into_iter().filter(|e| e.value.windows(MARK.len()).any(|w| w == MARK));
    let mut lowest: Option<Class> = None;
    for entry in marked {
        let object = Raw(entry.value).object()?;
        let class = class_of(&object);
        let is_default = object.get("globalDefault") == Some(&Value::Bool(true));
        if is_default && lowest.as_ref().is_none_or(|lowest| class.value < lowest.value) {
            lowest = Some(class);
        }
    }
    Ok(lowest)
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
