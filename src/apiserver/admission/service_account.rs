//! Every Pod runs as a service account: `default` unless it names one. A Pod without pull secrets
//! gets the account's. No token is mounted.

use serde_json::Value;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::read_error;
use crate::store::Key;

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
        let key = Key::new(&["", "serviceaccounts", &attributes.call.namespace, &account]);
        if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
            && let Some(entry) = attributes.server.store.get(&key).map_err(read_error)?
            && let Some(secrets) = Raw(entry.value).object()?.at(&["imagePullSecrets"])
        {
            spec.insert("imagePullSecrets".into(), secrets.clone());
        }
        // The old name of the field is kept in step, as upstream does.
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
        outcome.changed = true;
        Ok(())
    }
}
