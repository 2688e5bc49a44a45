//! What FlowSchema and PriorityLevelConfiguration share: objects that every server has, whose
//! specs stay as they are, and conditions (pkg/apis/flowcontrol).

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};

/// The fixed spec of the object of this name, if it has one.
pub fn fixed_spec<T: DeserializeOwned>(mandatory: &[Value], name: &str) -> Option<T> {
    let found = mandatory.iter().find(|one| one["metadata"]["name"] == name)?;
    serde_json::from_value(found["spec"].clone()).ok()
}

/// Tells that a spec is not the fixed one.
pub fn must_be_fixed(errors: &mut Errors, name: &str, spec: impl Serialize) {
    let detail = format!("spec of '{name}' must equal the fixed value");
    errors.invalid(&Path::new("spec"), spec, &detail);
}

/// A status is its conditions: there, and each once.
pub fn validate_conditions<'a, T: 'a>(
    errors: &mut Errors,
    conditions: Option<&'a Vec<T>>,
    type_: impl Fn(&'a T) -> Option<&'a str>,
) {
    checks::condition_types(errors, conditions.into_iter().flatten().map(type_));
}
