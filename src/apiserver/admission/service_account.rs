//! Every Pod runs as a service account: `default` unless it names one.
//!
//! No token is mounted yet; a Pod that wants one asks with a projected volume.

use serde_json::Value;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::{ApiError, Object};

pub struct ServiceAccount;

impl Admitter for ServiceAccount {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if attributes.verb != Verb::Create || !attributes.is("", "pods") {
            return Ok(());
        }
        let Some(spec) = object.fields_mut().get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        let named = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default();
        let account = match (named("serviceAccountName"), named("serviceAccount")) {
            ("", "") => "default".to_string(),
            ("", old_name) => old_name.to_string(),
            (name, _) => name.to_string(),
        };
        // The old name of the field is kept in step, as upstream does.
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
        outcome.changed = true;
        Ok(())
    }
}
