//! What the default roles and bindings of a cluster lack since they were changed: it is added back
//! at each start, and nothing is taken away (pkg/registry/rbac/reconciliation). Pure.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::defaults::AUTO_UPDATE;
use super::escalation;

/// The role with what it lacks; `None` if that is nothing, or if an administrator protects it.
pub fn cluster_role(stored: &ClusterRole, expected: &ClusterRole) -> Option<ClusterRole> {
    let mut role = stored.clone();
    metadata(&mut role.metadata, &expected.metadata)?;
    match &expected.aggregation_rule {
        Some(rule) => {
            let own = role.aggregation_rule.get_or_insert_default();
            let selectors = own.cluster_role_selectors.get_or_insert_default();
            for selector in rule.cluster_role_selectors.iter().flatten() {
                if !selectors.contains(selector) {
                    selectors.push(selector.clone());
                }
            }
        }
        None => {
            let own = role.rules.get_or_insert_default();
            let wanted = expected.rules.as_deref().unwrap_or_default();
            let missing = escalation::missing(own, wanted);
            own.extend(missing);
        }
    }
    (role != *stored).then_some(role)
}

/// The binding with the subjects that it lacks. A binding to another role is left as it is: where a
/// binding leads is never changed.
pub fn cluster_role_binding(
    stored: &ClusterRoleBinding,
    expected: &ClusterRoleBinding,
) -> Option<ClusterRoleBinding> {
    let mut binding = stored.clone();
    metadata(&mut binding.metadata, &expected.metadata)?;
    if binding.role_ref != expected.role_ref {
        return None;
    }
    let subjects = binding.subjects.get_or_insert_default();
    for subject in expected.subjects.iter().flatten() {
        if !subjects.contains(subject) {
            subjects.push(subject.clone());
        }
    }
    (binding != *stored).then_some(binding)
}

/// Adds labels and annotations; `None` for what is protected.
fn metadata(meta: &mut ObjectMeta, expected: &ObjectMeta) -> Option<()> {
    let protected =
        meta.annotations.iter().flatten().any(|(k, v)| k == AUTO_UPDATE && v == "false");
    if protected {
        return None;
    }
    let pairs =
        [(&mut meta.labels, &expected.labels), (&mut meta.annotations, &expected.annotations)];
    for (own, expected) in pairs {
        for (key, value) in expected.iter().flatten() {
            let own = own.get_or_insert_default();
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    #[test]
    fn what_was_taken_from_a_default_role_comes_back() {
        for value in defaults::cluster_roles() {
            let expected: ClusterRole = serde_json::from_value(value).unwrap();
            assert_eq!(cluster_role(&expected, &expected), None);
            let mut less = expected.clone();
            less.rules = None;
            less.aggregation_rule = None;
            less.metadata.labels = None;
            let again = cluster_role(&less, &expected).unwrap();
            assert_eq!(again.aggregation_rule, expected.aggregation_rule);
            assert_eq!(again.metadata.labels, expected.metadata.labels);
            let wanted = expected.rules.clone().unwrap_or_default();
            let own = again.rules.unwrap_or_default();
            assert!(
                expected.aggregation_rule.is_some()
                    || escalation::missing(&own, &wanted).is_empty()
            );
            let annotations = less.metadata.annotations.get_or_insert_default();
            annotations.insert(AUTO_UPDATE.into(), "false".into());
            assert_eq!(cluster_role(&less, &expected), None);
        }
    }

    #[test]
    fn subjects_come_back_and_others_stay() {
        for value in defaults::cluster_role_bindings() {
            let expected: ClusterRoleBinding = serde_json::from_value(value).unwrap();
            let mut other = expected.clone();
            other.subjects.as_mut().unwrap()[0].name = "other".into();
            let again = cluster_role_binding(&other, &expected).unwrap();
            let names: Vec<_> = again.subjects.iter().flatten().map(|s| s.name.clone()).collect();
            assert!(names.contains(&"other".to_string()));
            assert!(names.contains(&expected.subjects.as_ref().unwrap()[0].name));
            other.role_ref.name = "else".into();
            assert_eq!(cluster_role_binding(&other, &expected), None);
        }
    }
}
