//! What one set of rules has that another has not: nobody grants what they do not hold
//! (k8s.io/component-helpers/auth/rbac/validation).

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::apiserver::User;

/// The parts of `wanted` that no rule of `held` covers, those of one resource together.
pub fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing: Vec<PolicyRule> = Vec::new();
    for part in wanted.iter().flat_map(parts) {
        if held.iter().any(|rule| covers(rule, &part)) {
            continue;
        }
        let same = |rule: &&mut PolicyRule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
        };
        match missing.iter_mut().find(same) {
            Some(rule) if rule.verbs.contains(&part.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(part.verbs),
            None => missing.push(part),
        }
    }
    missing
}

/// Upstream's words for who grants what they do not hold.
pub fn refusal(user: &User, missing: &[PolicyRule]) -> String {
    let mut rules: Vec<String> = missing.iter().map(compact).collect();
    rules.sort();
    format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        rules.join("\n")
    )
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
fn compact(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", rule.api_groups.as_deref().unwrap_or_default()),
        ("Resources", rule.resources.as_deref().unwrap_or_default()),
        ("NonResourceURLs", rule.non_resource_urls.as_deref().unwrap_or_default()),
        ("ResourceNames", rule.resource_names.as_deref().unwrap_or_default()),
        ("Verbs", &rule.verbs),
    ];
    let there = fields.iter().filter(|(_, list)| !list.is_empty());
    let texts: Vec<String> = there.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", texts.join(", "))
}

/// A list as Go prints it with `%q`.
fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// A rule as rules of one verb on one resource, or one path.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    let names = rule.resource_names.iter().flatten().map(Some);
    let names: Vec<Option<&String>> = match rule.resource_names.iter().flatten().next() {
        Some(_) => names.collect(),
        None => vec![None],
    };
    for verb in &rule.verbs {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                parts.extend(names.iter().map(|name| PolicyRule {
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    resource_names: name.map(|name| vec![name.clone()]),
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                }));
            }
        }
        parts.extend(rule.non_resource_urls.iter().flatten().map(|url| PolicyRule {
            non_resource_urls: Some(vec![url.clone()]),
            verbs: vec![verb.clone()],
            ..PolicyRule::default()
        }));
    }
    parts
}

/// Whether a rule has all that a part has.
fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |held: &Option<Vec<String>>, part: &Option<Vec<String>>| {
        let held = held.as_deref().unwrap_or_default();
        part.iter().flatten().all(|one| held.contains(one) || held.iter().any(|h| h == "*"))
    };
    let verbs = part.verbs.iter().all(|v| held.verbs.contains(v))
        || held.verbs.iter().any(|verb| verb == "*");
    let resources = part.resources.iter().flatten().all(|one| {
        let any = one.split_once('/').map(|(_, part)| format!("*/{part}"));
        let mut held = held.resources.iter().flatten();
        held.any(|h| h == "*" || h == one || Some(h) == any.as_ref())
    });
    let urls = part.non_resource_urls.iter().flatten().all(|url| {
        held.non_resource_urls.iter().flatten().any(|held| super::url_matches(held, url))
    });
    let every_name = held.resource_names.iter().flatten().next().is_none();
    let names = every_name
        || part.resource_names.iter().flatten().next().is_some()
            && all(&held.resource_names, &part.resource_names);
    verbs && all(&held.api_groups, &part.api_groups) && resources && urls && names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(value: Value) -> Vec<PolicyRule> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_missing_is_told_in_upstreams_form() {
        let held = rules(json!([
            {"apiGroups": [""], "resources": ["pods", "*/log"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["*"]},
            {"nonResourceURLs": ["/healthz/*"], "verbs": ["get"]}]));
        let wanted = rules(json!([
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]},
            {"nonResourceURLs": ["/healthz/x", "/x"], "verbs": ["get"]}]));
        let user = User::new("ann", &["a", "b"]);
        assert_eq!(
            refusal(&user, &missing(&held, &wanted)),
            "user \"ann\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not \
             currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
             {APIGroups:[\"\"], Resources:[\"pods/log\"], Verbs:[\"list\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}\n\
             {NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"
        );
        let all = rules(json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]}]));
        assert!(missing(&all, &wanted).is_empty());
        assert!(missing(&all, &all).is_empty());
        let stars = missing(&held, &all);
        assert_eq!(stars.len(), 2, "what holds a star is a star: {stars:?}");
    }
}
