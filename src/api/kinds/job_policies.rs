//! What a Job says about failure and success beyond counting: `podFailurePolicy`,
//! `successPolicy`, and lists of indexes (pkg/apis/batch/validation).

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicyRule,
};

use super::checks;
use crate::api::field::{Errors, Path};

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const MAX_RULES: usize = 20;
const MAX_PATTERNS: usize = 20;
const MAX_EXIT_CODES: usize = 255;
/// Longest text of a list of indexes, in bytes.
const INDEXES_MAX_BYTES: usize = 64 * 1024;

/// A pattern of a condition that names no status means `True`.
pub fn set_defaults(spec: &mut JobSpec) {
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        checks::default_text(&mut pattern.status, "True");
    }
}

pub fn validate(errors: &mut Errors, path: &Path, spec: &JobSpec) {
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy");
        let path = path.child("rules");
        if policy.rules.len() > MAX_RULES {
            errors.too_many(&path, policy.rules.len(), MAX_RULES);
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            validate_failure_rule(errors, &path.index(i), rule, spec);
        }
    }
    let Some(policy) = &spec.success_policy else { return };
    let path = path.child("successPolicy");
    if spec.completion_mode.as_deref() != Some("Indexed") {
        return errors.invalid(&path, policy, "requires indexed completion mode");
    }
    let path = path.child("rules");
    match policy.rules.len() {
        0 => {
            let detail = "at least one rules must be specified when the successPolicy is specified";
            errors.required(&path, detail);
        }
        count if count > MAX_RULES => errors.too_many(&path, count, MAX_RULES),
        _ => {}
    }
    let completions = spec.completions.unwrap_or_default();
    for (i, rule) in policy.rules.iter().enumerate() {
        validate_success_rule(errors, &path.index(i), rule, completions);
    }
}

fn validate_failure_rule(
    errors: &mut Errors,
    path: &Path,
    rule: &PodFailurePolicyRule,
    spec: &JobSpec,
) {
    let at = path.child("action");
    match rule.action.as_str() {
        "" => errors.required(&at, &format!("valid values: {}", quoted(ACTIONS))),
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            errors.invalid(&at, &rule.action, "requires the backoffLimitPerIndex to be set");
        }
        action if ACTIONS.contains(&action) => {}
        other => errors.not_supported(&at, other, ACTIONS),
    }
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if let Some(codes) = &rule.on_exit_codes {
        validate_exit_codes(errors, &path.child("onExitCodes"), codes, spec);
    }
    let at = path.child("onPodConditions");
    if conditions.len() > MAX_PATTERNS {
        errors.too_many(&at, conditions.len(), MAX_PATTERNS);
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let at = at.index(i);
        checks::qualified_name(errors, &at.child("type"), &pattern.type_);
        let status = pattern.status.as_deref().unwrap_or_default();
        if !STATUSES.contains(&status) {
            errors.not_supported(&at.child("status"), status, STATUSES);
        }
    }
    match (rule.on_exit_codes.is_some(), conditions.is_empty()) {
        (true, false) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid_whole(path, detail);
        }
        (false, true) => {
            let detail = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.invalid_whole(path, detail);
        }
        _ => {}
    }
}

fn validate_exit_codes(
    errors: &mut Errors,
    path: &Path,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    spec: &JobSpec,
) {
    let at = path.child("operator");
    match codes.operator.as_str() {
        "" => errors.required(&at, &format!("valid values: {}", quoted(OPERATORS))),
        operator if OPERATORS.contains(&operator) => {}
        other => errors.not_supported(&at, other, OPERATORS),
    }
    if let Some(name) = &codes.container_name {
        let pod = spec.template.spec.as_ref();
        let init = pod.and_then(|pod| pod.init_containers.as_ref());
        let mut all = pod.into_iter().flat_map(|pod| &pod.containers);
        let mut init = init.into_iter().flatten();
        if !all.any(|one| one.name == *name) && !init.any(|one| one.name == *name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name, detail);
        }
    }
    let at = path.child("values");
    match codes.values.len() {
        0 => errors.invalid(&at, &codes.values, "at least one value is required"),
        count if count > MAX_EXIT_CODES => errors.too_many(&at, count, MAX_EXIT_CODES),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (i, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.invalid(&at.index(i), code, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.duplicate(&at.index(i), code);
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(&at, &codes.values, "must be ordered");
    }
}

fn validate_success_rule(
    errors: &mut Errors,
    path: &Path,
    rule: &SuccessPolicyRule,
    completions: i32,
) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, detail);
    }
    let mut named = None;
    if let Some(indexes) = &rule.succeeded_indexes {
        let at = path.child("succeededIndexes");
        if indexes.len() > INDEXES_MAX_BYTES {
            errors.too_long(&at, INDEXES_MAX_BYTES);
        }
        match count_indexes(indexes, completions) {
            Ok(count) => named = Some(count),
            Err(why) => {
                errors.invalid(&at, indexes, &format!("error parsing succeededIndexes: {why}"));
                named = Some(0);
            }
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    let at = path.child("succeededCount");
    checks::nonnegative(errors, &at, count);
    for (most, what) in [
        (Some(completions), "number of specified completions"),
        (named, "number of indexes in the specified succeededIndexes field"),
    ] {
        if let Some(most) = most.filter(|most| count > *most) {
            let detail = format!("must be less than or equal to {most} (the {what})");
            errors.invalid(&at, count, &detail);
        }
    }
}

/// How many indexes a list such as `1,3-5` names; they rise, and are below `completions`.
fn count_indexes(text: &str, completions: i32) -> Result<i32, String> {
    let mut last: Option<i32> = None;
    let mut total = 0;
    let mut next = |text: &str| -> Result<i32, String> {
        let index: i32 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        if let Some(last) = last.filter(|last| *last >= index) {
            return Err(format!("non-increasing order, previous: {last}, current: {index}"));
        }
        last = Some(index);
        Ok(index)
    };
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        match interval.split('-').collect::<Vec<_>>()[..] {
            [one] => {
                next(one)?;
                total += 1;
            }
            [first, end] => {
                let first = next(first)?;
                total += next(end)? - first + 1;
            }
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval \
                     can have at most two parts separated by '-'"
                ));
            }
        }
    }
    Ok(total)
}

/// `["a" "b"]`, as Go shows lists.
fn quoted(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::count_indexes;

    #[test]
    fn indexes_are_counted() {
        assert_eq!(count_indexes("", 3), Ok(0));
        assert_eq!(count_indexes("0,2-4,7", 8), Ok(5));
        for (text, why) in [
            ("a", "cannot convert string to integer for index: \"a\""),
            ("3", "too large index: \"3\""),
            ("1,1", "non-increasing order, previous: 1, current: 1"),
            ("2-1", "non-increasing order, previous: 2, current: 1"),
        ] {
            assert_eq!(count_indexes(text, 3), Err(why.into()), "{text}");
        }
        assert!(count_indexes("0-1-2", 3).unwrap_err().contains("at most two parts"));
    }
}
