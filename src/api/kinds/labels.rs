//! Labels, annotations and label selectors: validation with upstream's words
//! (apimachinery/pkg/apis/meta/v1/validation), and the texts that tables show.
//!
//! Matching is in [`crate::api::selector`].

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::api::field::{Errors, Path};
use crate::api::names;

/// Largest sum of an object's annotation keys and values, in bytes.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

pub type Map = BTreeMap<String, String>;

/// A label's key.
pub fn validate_label_key(errors: &mut Errors, path: &Path, key: &str) {
    names::report(errors, path, key, names::is_qualified_name(key));
}

/// Labels, node selectors, and Service selectors.
pub fn validate_labels(errors: &mut Errors, path: &Path, labels: Option<&Map>) {
    for (key, value) in labels.into_iter().flatten() {
        validate_label_key(errors, path, key);
        names::report(errors, path, value, names::is_label_value(value));
    }
}

pub fn validate_annotations(errors: &mut Errors, path: &Path, annotations: Option<&Map>) {
    let mut bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Annotation keys may have capitals in their prefix.
        names::report(errors, path, key, names::is_qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

pub fn validate_selector(errors: &mut Errors, path: &Path, selector: &LabelSelector) {
    validate_labels(errors, &path.child("matchLabels"), selector.match_labels.as_ref());
    let expressions = path.child("matchExpressions");
    for (i, one) in selector.match_expressions.iter().flatten().enumerate() {
        validate_requirement(errors, &expressions.index(i), one);
    }
}

fn validate_requirement(errors: &mut Errors, path: &Path, one: &LabelSelectorRequirement) {
    let values = one.values.as_deref().unwrap_or_default();
    validate_label_key(errors, &path.child("key"), &one.key);
    let values_path = path.child("values");
    match one.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&values_path, detail);
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&values_path, detail);
        }
        "Exists" | "DoesNotExist" => {}
        other => {
            errors.invalid(&path.child("operator"), other, "not a valid label selector operator");
        }
    }
    for (i, value) in values.iter().enumerate() {
        names::report(errors, &values_path.index(i), value, names::is_label_value(value));
    }
}

/// A selector does not change once it is set. Absent and empty parts are the same.
pub fn validate_selector_unchanged(
    errors: &mut Errors,
    path: &Path,
    new: &LabelSelector,
    old: &LabelSelector,
) {
    let labels = |s: &LabelSelector| s.match_labels.clone().unwrap_or_default();
    let expressions = |s: &LabelSelector| s.match_expressions.clone().unwrap_or_default();
    if labels(new) != labels(old) || expressions(new) != expressions(old) {
        errors.invalid(path, new, "field is immutable");
    }
}

/// True if the selector has no requirement at all.
pub fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// `a=1,b=2`, or `<none>`: a table's cell.
pub fn format_labels(labels: Option<&Map>) -> String {
    let pairs: Vec<String> =
        labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// `a=1,b in (2,3),!c`, sorted by key, or `<none>`.
pub fn format_selector(selector: &LabelSelector) -> String {
    let mut terms: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        terms.push((key, format!("{key}={value}")));
    }
    for one in selector.match_expressions.iter().flatten() {
        let key = one.key.as_str();
        let mut values = one.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match one.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_string(),
        };
        terms.push((key, text));
    }
    terms.sort_by(|a, b| a.0.cmp(b.0));
    if terms.is_empty() {
        return "<none>".into();
    }
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}
