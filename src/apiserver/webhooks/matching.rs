//! Whether a webhook is asked about a write: its rules, its selectors and its match policy
//! (webhook/generic/webhook.go and webhook/predicates).

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::RuleWithOperations;

use super::{Hook, Question, conditions, is_namespace};
use crate::api::resource::{Gvr, KindInfo};
use crate::api::selector::Selector;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::conversion::by_webhook;
use crate::apiserver::keys;
use crate::apiserver::service::{ApiServer, read_error};

const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces", false);

/// The version of the kind in which a webhook wants to see the object; none if it is not asked.
pub fn asked(
    server: &ApiServer,
    hook: &Hook,
    question: &Question,
    object: Option<&Object>,
) -> Result<Option<Arc<KindInfo>>, ApiError> {
    let selected = |object: Option<&Object>| {
        object.is_some_and(|object| hook.objects.matches(&object.labels()))
    };
    if !hook.objects.is_everything() && !selected(object) && !selected(question.old) {
        return Ok(None);
    }
    let Some(info) = by_rules(server, hook, question) else { return Ok(None) };
    if let Err(error) = is_shown(question, &info, format_args!("webhook {:?}", hook.spec.name)) {
        return if hook.fails_open { Ok(None) } else { Err(error) };
    }
    let in_namespace = in_namespace(server, &hook.namespaces, question, object)?;
    let asked = in_namespace && conditions::hold(server, hook, question, &info, object)?;
    Ok(asked.then_some(info))
}

/// By the first rule that fits the resource as it was asked for, or else, where the webhook wants
/// that, by one that fits another form of the same objects.
fn by_rules(server: &ApiServer, hook: &Hook, question: &Question) -> Option<Arc<KindInfo>> {
    let info = &question.call.info;
    let rules = || hook.spec.rules.iter().flatten();
    if rules().any(|rule| fits(rule, question, &info.gvr)) {
        return Some(info.clone());
    }
    if hook.spec.match_policy.as_deref() == Some("Exact") {
        return None;
    }
    let registry = server.registry();
    let others = || {
        let same = |other: &&Arc<KindInfo>| {
            other.stored_gvr() == info.stored_gvr() && other.gvr != info.gvr
        };
        registry.rows().iter().filter(same)
    };
    let mut found = rules().filter_map(|rule| others().find(|i| fits(rule, question, &i.gvr)));
    found.next().cloned()
}

/// Refuses what would have to be shown in another version that only a webhook can make: what guards
/// such resources names all their versions.
pub fn is_shown(
    question: &Question,
    info: &KindInfo,
    who: impl std::fmt::Display,
) -> Result<(), ApiError> {
    if info.gvr == question.call.info.gvr || by_webhook(info).is_none() {
        return Ok(());
    }
    let (wanted, asked) = (info.gvr.api_version(), question.call.info.gvr.api_version());
    Err(ApiError::internal(format!(
        "{who} wants to see the object as {wanted}, and objects of {asked} are converted by a \
         webhook: name {asked} in its rules too, or ask for exact matches"
    )))
}

pub fn fits(rule: &RuleWithOperations, question: &Question, gvr: &Gvr) -> bool {
    let has = |list: &Option<Vec<String>>, wanted: &str| {
        list.iter().flatten().any(|item| item == "*" || item == wanted)
    };
    let namespaced = !is_namespace(question.call) && !question.call.namespace.is_empty();
    let in_scope = match rule.scope.as_deref() {
        Some("Namespaced") => namespaced,
        Some("Cluster") => !namespaced,
        _ => true,
    };
    in_scope
        && has(&rule.operations, question.operation.name())
        && has(&rule.api_groups, &gvr.group)
        && has(&rule.api_versions, &gvr.version)
        && rule.resources.iter().flatten().any(|item| {
            let (resource, sub) = item.split_once('/').unwrap_or((item, ""));
            (resource == "*" || resource == gvr.resource)
                && (sub == "*" || sub == question.call.subresource)
        })
}

/// Objects without a namespace are never left out, but for Namespaces themselves.
pub fn in_namespace(
    server: &ApiServer,
    selector: &Selector,
    question: &Question,
    object: Option<&Object>,
) -> Result<bool, ApiError> {
    let name = question.namespace();
    if selector.is_everything() || name.is_empty() {
        return Ok(true);
    }
    let own =
        object.filter(|_| is_namespace(question.call) && question.call.subresource.is_empty());
    let labels = match own {
        Some(namespace) => namespace.labels(),
        None => {
            let entry = server.store.get(&keys::namespace(name)).map_err(read_error)?;
            let entry = entry.ok_or_else(|| ApiError::not_found(&NAMESPACES, name))?;
            Raw(entry.value).object()?.labels()
        }
    };
    Ok(selector.matches(&labels))
}
