//! What Deployments and ReplicaSets share: selectors, counts of replicas, numbers that may be
//! percentages, and columns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{checks, labels};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::table::Column;

pub const CONTAINERS: Column =
    Column::wide("Containers", "string", "Names of each container in the template.");
pub const IMAGES: Column =
    Column::wide("Images", "string", "Images referenced by each container in the template.");
pub const SELECTOR: Column =
    Column::wide("Selector", "string", "The labels of the pods that belong to the object.");

/// The warning of kinds that are stored and that no controller acts on.
pub fn stored_only(kind: &str) -> String {
    let article = if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!(
        "no controller of this release acts on {article} {kind}: it is stored, and nothing follows"
    )
}

/// The counters of a workload's status.
#[derive(Clone, Copy, Default)]
pub struct Counters {
    pub replicas: i32,
    pub updated: Option<i32>,
    pub fully_labeled: Option<i32>,
    pub ready: Option<i32>,
    pub available: Option<i32>,
    pub observed_generation: Option<i64>,
}

/// A selector must be there: an empty one would select every pod.
pub fn validate_selector(errors: &mut Errors, path: &Path, selector: &LabelSelector) {
    if labels::is_empty_selector(selector) {
        errors.required(path, "");
    } else {
        labels::validate_selector(errors, path, selector);
    }
}

/// None of the counters is negative, and none is greater than what it is a part of.
pub fn validate_counters(errors: &mut Errors, counters: Counters) {
    let path = Path::new("status");
    let Counters { replicas, updated, fully_labeled, ready, available, .. } = counters;
    checks::nonnegative(errors, &path.child("replicas"), replicas);
    let observed = path.child("observedGeneration");
    checks::nonnegative_if_set(errors, &observed, counters.observed_generation);
    let parts = [
        ("updatedReplicas", updated),
        ("fullyLabeledReplicas", fully_labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    for (field, part) in parts {
        let Some(part) = part else { continue };
        checks::nonnegative(errors, &path.child(field), part);
        if part > replicas {
            let detail = "cannot be greater than status.replicas";
            errors.invalid(&path.child(field), part, detail);
        }
    }
    if available.unwrap_or(0) > ready.unwrap_or(0) {
        let detail = "cannot be greater than readyReplicas";
        errors.invalid(&path.child("availableReplicas"), available, detail);
    }
}

/// A count, or a percentage such as `25%`.
pub fn validate_count_or_percent(errors: &mut Errors, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(count) => checks::nonnegative(errors, path, *count),
        IntOrString::String(text) => names::report(errors, path, text, names::is_percent(text)),
    }
}

/// The number of a count or percentage, whichever it is; nothing where it cannot be read.
pub fn count_or_percent(value: Option<&IntOrString>) -> Option<i32> {
    match value? {
        IntOrString::Int(count) => Some(*count),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
    }
}
