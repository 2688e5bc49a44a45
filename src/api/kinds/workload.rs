//! What Deployments and ReplicaSets share: selectors, counts of replicas, numbers that may be
//! percentages, and columns.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use serde_json::Value;

use super::{checks, labels, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::table::{self, Column};

/// The columns of a workload: its own between name and age; after them, with -o wide, what its
/// template and selector say. Kinds without a column for the selector list theirs.
macro_rules! columns {
    ($($own:expr),+ $(,)?) => {{
        const COLUMNS: &[$crate::api::table::Column] = &[
            $crate::api::table::NAME,
            $($own,)+
            $crate::api::table::AGE,
            $crate::api::kinds::workload::CONTAINERS,
            $crate::api::kinds::workload::IMAGES,
            $crate::api::kinds::workload::SELECTOR,
        ];
        COLUMNS
    }};
}
pub(crate) use columns;

/// The cells of [`columns`]; no selector, no cell of it.
pub fn row(
    metadata: &ObjectMeta,
    own: Vec<Value>,
    template: Option<&PodTemplateSpec>,
    selector: Option<String>,
    now: Timestamp,
) -> Vec<Value> {
    let (names, images) = template.map(pod_template::container_cells).unwrap_or_default();
    let mut cells = vec![table::name(metadata)];
    cells.extend(own);
    cells.extend([table::age(metadata, now), names.into(), images.into()]);
    cells.extend(selector.map(Value::from));
    cells
}

/// The columns of what keeps a number of pods.
pub fn replica_columns() -> &'static [Column] {
    columns![
        Column::new("Desired", "integer", "How many pods there should be."),
        Column::new("Current", "integer", "How many pods there are."),
        Column::new("Ready", "integer", "How many pods are ready."),
    ]
}

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
    pub current: Option<i32>,
    pub fully_labeled: Option<i32>,
    pub ready: Option<i32>,
    pub available: Option<i32>,
    /// Are leaving, and no part of the replicas.
    pub terminating: Option<i32>,
    pub observed_generation: Option<i64>,
    /// What upstream calls the ready ones, where it is not their field's name alone.
    pub ready_name: Option<&'static str>,
}

/// What a new template's pods are replaced by, if nothing is said: all of it at once is left to
/// `OnDelete` and `Recreate`.
pub const ROLLING_UPDATE: &str = "RollingUpdate";
/// How many old revisions are kept for rollbacks.
pub const REVISION_HISTORY_LIMIT: i32 = 10;

/// Sets the type of an update strategy that names none; true if it is a rolling one.
pub fn default_strategy(type_: &mut Option<String>) -> bool {
    checks::default_text(type_, ROLLING_UPDATE);
    type_.as_deref() == Some(ROLLING_UPDATE)
}

/// A workload's selector stays (`spec.selector`).
pub fn selector_stays(
    errors: &mut Errors,
    new: Option<&LabelSelector>,
    old: Option<&LabelSelector>,
) {
    if let (Some(new), Some(old)) = (new, old) {
        let path = Path::new("spec");
        labels::validate_selector_unchanged(errors, &path.child("selector"), new, old);
    }
}

/// The numbers that many specs have.
pub fn validate_numbers(
    errors: &mut Errors,
    path: &Path,
    replicas: Option<i32>,
    min_ready_seconds: Option<i32>,
    revision_history_limit: Option<i32>,
) {
    for (field, value) in [
        ("replicas", replicas),
        ("minReadySeconds", min_ready_seconds),
        ("revisionHistoryLimit", revision_history_limit),
    ] {
        checks::nonnegative_if_set(errors, &path.child(field), value);
    }
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
    let Counters { replicas, updated, current, fully_labeled, ready, available, .. } = counters;
    checks::nonnegative(errors, &path.child("replicas"), replicas);
    let observed = path.child("observedGeneration");
    checks::nonnegative_if_set(errors, &observed, counters.observed_generation);
    let parts = [
        ("updatedReplicas", updated),
        ("currentReplicas", current),
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
        let detail =
            format!("cannot be greater than {}", counters.ready_name.unwrap_or("readyReplicas"));
        errors.invalid(&path.child("availableReplicas"), available, &detail);
    }
    let terminating = path.child("terminatingReplicas");
    checks::nonnegative_if_set(errors, &terminating, counters.terminating);
}

/// How often names of children collided (`status.collisionCount`).
pub fn validate_collisions(errors: &mut Errors, new: Option<i32>, old: Option<i32>) {
    let path = Path::new("status");
    checks::not_decremented(errors, &path.child("collisionCount"), new, old);
}

/// A count, or a percentage such as `25%`.
pub fn validate_count_or_percent(errors: &mut Errors, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(count) => checks::nonnegative(errors, path, *count),
        IntOrString::String(text) => names::report(errors, path, text, names::is_percent(text)),
    }
}

/// A percentage of at most all of them.
pub fn validate_no_more_than_all(errors: &mut Errors, path: &Path, value: &IntOrString) {
    if matches!(value, IntOrString::String(_)) && count_or_percent(Some(value)) > Some(100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// The number of a count or percentage, whichever it is; nothing where it cannot be read.
pub fn count_or_percent(value: Option<&IntOrString>) -> Option<i32> {
    match value? {
        IntOrString::Int(count) => Some(*count),
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
    }
}
