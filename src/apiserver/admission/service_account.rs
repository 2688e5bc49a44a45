//! Every Pod runs as a service account that exists: `default` unless it names one. A Pod without
//! pull secrets gets the account's, and its containers get the account's token. Mirrors of static
//! pods have none.
//!
//! A namespace is created together with its `default` account and the ConfigMap of the cluster's
//! CA, so that Pods can be created in it at once, and start; should one be deleted, its controller
//! makes it anew.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb, token_volume};
use crate::api::kinds::{config_map, static_pod};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::{read_error, timestamp};
use crate::apiserver::write::spliced;
use crate::store::{Expect, Key, Op};

/// The account of Pods that name none.
const DEFAULT: &str = "default";

pub struct ServiceAccount;

impl Admitter for ServiceAccount {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if attributes.verb != Verb::Create {
            return Ok(());
        }
        if attributes.is("", "namespaces") {
            outcome.ops.extend(default_account(attributes, object.name())?);
            outcome.ops.extend(root_ca(attributes, object.name())?);
        } else if attributes.is("", "pods") {
            if object.annotations().contains_key(static_pod::MIRROR) {
                return check_mirror(attributes, object);
            }
            set_account(attributes, object)?;
            outcome.changed = true;
        }
        Ok(())
    }
}

fn key(namespace: &str, name: &str) -> Key {
    Key::new(&["", "serviceaccounts", namespace, name])
}

/// Creates a new namespace's account, unless something left one there.
fn default_account(attributes: &Attributes, namespace: &str) -> Result<Option<Op>, ApiError> {
    let server = attributes.server;
    let key = key(namespace, DEFAULT);
    if server.store.get(&key).map_err(read_error)?.is_some() {
        return Ok(None);
    }
    let account = Object::from_value(json!({
        "kind": "ServiceAccount",
        "apiVersion": "v1",
        "metadata": {
            "name": DEFAULT,
            "namespace": namespace,
            "uid": server.ids.uid(),
            "creationTimestamp": timestamp(server.clock.now()),
        },
    }))?;
    Ok(Some(Op::Put { key, value: spliced(&account), expect: Expect::Absent }))
}

/// Creates a new namespace's certificates, where there is a CA, unless something left them there.
fn root_ca(attributes: &Attributes, namespace: &str) -> Result<Option<Op>, ApiError> {
    let server = attributes.server;
    let Some(pki) = &server.pki else { return Ok(None) };
    let key = Key::new(&["", "configmaps", namespace, config_map::ROOT_CA]);
    if server.store.get(&key).map_err(read_error)?.is_some() {
        return Ok(None);
    }
    let mut map = Object::from_typed(&config_map::root_ca(namespace, pki.ca_pem()));
    map.set_meta("uid", server.ids.uid());
    map.set_meta("creationTimestamp", timestamp(server.clock.now()));
    Ok(Some(Op::Put { key, value: spliced(&map), expect: Expect::Absent }))
}

/// A mirror is as its static pod is, and that has no account, by which its node could come by what
/// is the account's.
fn check_mirror(attributes: &Attributes, object: &Object) -> Result<(), ApiError> {
    let pod: Pod = object.typed()?;
    let why = match static_pod::object_reference(&pod) {
        Some("serviceaccounts") => "a mirror pod may not reference service accounts",
        Some("secrets") => "a mirror pod may not reference secrets",
        _ => return Ok(()),
    };
    Err(ApiError::forbidden(&attributes.call.info.gvr, object.name(), why))
}

/// What a Pod has from its account.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    #[serde(default)]
    image_pull_secrets: Option<Value>,
    #[serde(default)]
    automount_service_account_token: Option<bool>,
}

fn set_account(attributes: &Attributes, object: &mut Object) -> Result<(), ApiError> {
    let call = attributes.call;
    let Some(spec) = object.fields_mut().get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let named = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default();
    let account = match (named("serviceAccountName"), named("serviceAccount")) {
        ("", "") => DEFAULT.to_string(),
        ("", old_name) => old_name.to_string(),
        (name, _) => name.to_string(),
    };
    let entry = attributes.server.store.get(&key(&call.namespace, &account)).map_err(read_error)?;
    let Some(entry) = entry else {
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount {account:?} not found",
            call.namespace
        );
        return Err(ApiError::forbidden(&call.info.gvr, &call.name, why));
    };
    let found: Account = Raw(entry.value).decode()?;
    if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && let Some(secrets) = found.image_pull_secrets
    {
        spec.insert("imagePullSecrets".into(), secrets);
    }
    token_volume::add(spec, found.automount_service_account_token, &attributes.server.ids);
    // The old name of the field is kept in step, as upstream does.
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.into());
    Ok(())
}
