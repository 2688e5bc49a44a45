//! Objects are created only in namespaces that exist and are not on their way out; the system's
//! namespaces stay.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::error::Cause;
use crate::api::resource::Gvr;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::keys;
use crate::apiserver::service::read_error;
use crate::store::{Expect, Op};

/// Cannot be deleted.
pub const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces", false);

pub struct NamespaceLifecycle;

/// What is looked at of a namespace: every creation in it asks.
#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    deletion_timestamp: Option<IgnoredAny>,
}

/// Whether a stored namespace is being deleted: hardly one is, and the word is in none that lives.
fn is_ending(stored: Bytes) -> Result<bool, ApiError> {
    if memchr::memmem::find(&stored, b"\"deletionTimestamp\"").is_none() {
        return Ok(false);
    }
    Ok(Raw(stored).decode::<Head>()?.metadata.deletion_timestamp.is_some())
}

impl Admitter for NamespaceLifecycle {
    fn admit(
        &self,
        attributes: &Attributes,
        _: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        if attributes.verb != Verb::Create || !call.info.gvr.namespaced {
            return Ok(());
        }
        let key = keys::namespace(&call.namespace);
        let entry = attributes.server.store.get(&key).map_err(read_error)?;
        let Some(entry) = entry else {
            return Err(ApiError::not_found(&NAMESPACES, &call.namespace));
        };
        if is_ending(entry.value)? {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                call.namespace
            );
            let cause = Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {} is being terminated", call.namespace),
                field: "metadata.namespace".into(),
            };
            return Err(ApiError::forbidden(&call.info.gvr, &call.name, why).cause(cause));
        }
        // The namespace is the same when the object is committed, so that nothing is created in a
        // namespace after its deletion began.
        outcome.ops.push(Op::Check { key, expect: Expect::Revision(entry.revision) });
        Ok(())
    }

    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let deletes = attributes.verb == Verb::Delete && attributes.is("", "namespaces");
        if deletes && IMMORTAL.contains(&object.name()) {
            let why = "this namespace may not be deleted";
            return Err(ApiError::forbidden(&NAMESPACES, object.name(), why));
        }
        Ok(())
    }
}
