//! Conditions of metav1, which the status of newer kinds holds.
//!
//! Upstream: apimachinery/pkg/apis/meta/v1/validation, ValidateConditions.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{checks, labels};
use crate::api::field::{Errors, Path};
use crate::api::names;

const STATUSES: &[&str] = &["False", "True", "Unknown"];
const REASON_MAX_BYTES: usize = 1024;
const MESSAGE_MAX_BYTES: usize = 32 * 1024;

/// Each type once, and each condition whole.
pub fn validate(errors: &mut Errors, path: &Path, conditions: &[Condition]) {
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if !seen.insert(&condition.type_) {
            errors.duplicate(&path.child("type"), &condition.type_);
        }
        validate_one(errors, &path, condition);
    }
}

fn validate_one(errors: &mut Errors, path: &Path, condition: &Condition) {
    labels::validate_label_key(errors, &path.child("type"), &condition.type_);
    if !STATUSES.contains(&condition.status.as_str()) {
        errors.not_supported(&path.child("status"), &condition.status, STATUSES);
    }
    let generation = condition.observed_generation;
    checks::nonnegative_if_set(errors, &path.child("observedGeneration"), generation);
    let (at, reason) = (path.child("reason"), condition.reason.as_str());
    if reason.is_empty() {
        errors.required(&at, "must be set");
    } else {
        names::report(errors, &at, reason, names::is_condition_reason(reason));
        if reason.len() > REASON_MAX_BYTES {
            errors.too_long(&at, REASON_MAX_BYTES);
        }
    }
    if condition.message.len() > MESSAGE_MAX_BYTES {
        errors.too_long(&path.child("message"), MESSAGE_MAX_BYTES);
    }
}
