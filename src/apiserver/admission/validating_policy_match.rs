//! Whether a policy or a binding is about a request, and the parameters of a binding
//! (k8s.io/apiserver/pkg/admission/plugin/policy/matching and generic/policy_dispatcher.go).

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{ParamKind, ParamRef};
use serde_json::Value;

use super::validating_policy_table::{Matcher, Rule};
use crate::api::resource::KindInfo;
use crate::api::selector::Selector;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::conversion::by_webhook;
use crate::apiserver::service::{ApiServer, read_error};
use crate::apiserver::webhooks::Question;
use crate::apiserver::webhooks::matching::{fits, in_namespace, is_shown};
use crate::apiserver::{keys, versions};

/// The version of the kind in which the object is shown; none if the request is not meant.
pub fn matched(
    server: &ApiServer,
    matcher: &Matcher,
    question: &Question,
    object: Option<&Object>,
) -> Result<Option<Arc<KindInfo>>, ApiError> {
    let selected = |object: Option<&Object>| {
        object.is_some_and(|object| matcher.objects.matches(&object.labels()))
    };
    if !matcher.objects.is_everything() && !selected(object) && !selected(question.old) {
        return Ok(None);
    }
    let exact = matcher.is_exact;
    if by_rules(server, &matcher.excluded, exact, question).is_some() {
        return Ok(None);
    }
    let info = match matcher.rules.is_empty() {
        true => Some(question.call.info.clone()),
        false => by_rules(server, &matcher.rules, exact, question),
    };
    let Some(info) = info else { return Ok(None) };
    is_shown(question, &info, "a policy")?;
    let inside = in_namespace(server, &matcher.namespaces, question, object)?;
    Ok(inside.then_some(info))
}

/// By the first rule that fits the resource as it was asked for, or else by one that fits another
/// form of the same objects.
fn by_rules(
    server: &ApiServer,
    rules: &[Rule],
    is_exact: bool,
    question: &Question,
) -> Option<Arc<KindInfo>> {
    let info = &question.call.info;
    let named = |rule: &Rule| rule.names.is_empty() || rule.names.contains(&question.call.name);
    if rules.iter().any(|rule| named(rule) && fits(&rule.rule, question, &info.gvr)) {
        return Some(info.clone());
    }
    if is_exact {
        return None;
    }
    let registry = server.registry();
    let same =
        |other: &&Arc<KindInfo>| other.stored_gvr() == info.stored_gvr() && other.gvr != info.gvr;
    let mut others = registry.rows().iter().filter(same);
    let fits = |other: &&Arc<KindInfo>| {
        rules.iter().any(|rule| named(rule) && fits(&rule.rule, question, &other.gvr))
    };
    others.find(fits).cloned()
}

/// The parameters that a binding gives its policy, each of which is evaluated on its own; `None`
/// stands for no parameters. The error says what is configured badly.
pub fn params(
    server: &ApiServer,
    kind: Option<&ParamKind>,
    reference: Option<&ParamRef>,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), Some(reference)) = (kind, reference) else { return Ok(vec![None]) };
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (api_version, kind) = (text(&kind.api_version), text(&kind.kind));
    let registry = server.registry();
    let info = registry.by_kind(&api_version, &kind);
    let info =
        info.ok_or_else(|| format!("paramKind kind `{api_version}, Kind={kind}` not known"))?;
    let own = text(&reference.namespace);
    let namespace = match (info.gvr.namespaced, own.is_empty()) {
        (false, false) => {
            return Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()
            );
        }
        (false, true) => "",
        (true, false) => own.as_str(),
        (true, true) if namespace.is_empty() => {
            return Err("cannot use namespaced paramRef in policy binding that matches \
                        cluster-scoped resources"
                .into());
        }
        (true, true) => namespace,
    };
    let object = |raw| {
        let object = Raw(raw).object().map_err(|error| error.to_string())?;
        if by_webhook(info).is_some() && object.api_version() != info.gvr.api_version() {
            return Err(format!(
                "parameters of {api_version}, Kind={kind} are stored as {}, which a webhook converts",
                object.api_version()
            ));
        }
        Ok::<_, String>(versions::shown(info, object))
    };
    let mut found = Vec::new();
    let name = text(&reference.name);
    if !name.is_empty() {
        let entry = server.store.get(&keys::object(info, namespace, &name));
        if let Some(entry) = entry.map_err(|error| read_error(error).to_string())? {
            found.push(Some(object(entry.value)?.into_value()));
        }
    } else {
        let selector = Selector::from_typed(reference.selector.as_ref());
        let selector = selector.map_err(|error| error.to_string())?;
        let page = server.store.list(&keys::collection(info, namespace), None, 0, None);
        for entry in page.map_err(|error| read_error(error).to_string())?.entries {
            let object = object(entry.value)?;
            if selector.matches(&object.labels()) {
                found.push(Some(object.into_value()));
            }
        }
    }
    if found.is_empty() && reference.parameter_not_found_action.as_deref() == Some("Deny") {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(why.into());
    }
    Ok(found)
}
