//! Claims and volumes are created with the finalizers that keep them while they are in use
//! (upstream's StorageObjectInUseProtection admission); controllers take them away.

use serde_json::json;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::storage::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use crate::api::{ApiError, Object};

pub struct StorageProtection;

impl Admitter for StorageProtection {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if attributes.verb != Verb::Create {
            return Ok(());
        }
        let finalizer = if attributes.is("", "persistentvolumes") {
            VOLUME_PROTECTION
        } else if attributes.is("", "persistentvolumeclaims") {
            CLAIM_PROTECTION
        } else {
            return Ok(());
        };
        let finalizers = object.finalizers();
        if !finalizers.contains(&finalizer) {
            let all: Vec<&str> = finalizers.into_iter().chain([finalizer]).collect();
            let all = json!(all);
            object.set_meta("finalizers", all);
            outcome.changed = true;
        }
        Ok(())
    }
}
