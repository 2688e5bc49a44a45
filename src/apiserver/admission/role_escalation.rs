//! Nobody grants what they do not hold: who writes a role holds all of its rules, or has the verb
//! `escalate`; who writes a binding holds all rules of its role, or has the verb `bind`
//! (pkg/registry/rbac/*/policybased).

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
};
use serde_json::{Value, json};

use super::{Admitter, Attributes, Verb};
use crate::api::resource::Gvr;
use crate::api::{ApiError, Object};
use crate::apiserver::authz;
use crate::apiserver::rbac::escalation;
use crate::apiserver::user::SYSTEM_MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";
/// Metadata that grants nothing: what the garbage collector writes, and what follows from writes.
const HARMLESS: &[&str] =
    &["finalizers", "generation", "managedFields", "ownerReferences", "resourceVersion"];

static ROLES: Gvr = Gvr::of::<Role>();
static CLUSTER_ROLES: Gvr = Gvr::of::<ClusterRole>();

pub struct RoleEscalation;

impl Admitter for RoleEscalation {
    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let of_rbac = call.info.gvr.group == GROUP && attributes.verb != Verb::Delete;
        if !of_rbac || call.user.is_in(SYSTEM_MASTERS) {
            return Ok(());
        }
        if attributes.old.is_some_and(|old| stripped(old) == stripped(object)) {
            return Ok(());
        }
        match &*call.info.gvr.resource {
            "roles" => check_role(attributes, &object.typed::<Role>()?.rules),
            "clusterroles" => {
                let role: ClusterRole = object.typed()?;
                let gathers = |object: &Object| object.get("aggregationRule").is_some();
                if gathers(object) || attributes.old.is_some_and(gathers) {
                    check_gathering(attributes)?;
                }
                check_role(attributes, &role.rules)
            }
            "rolebindings" => check_binding(attributes, &object.typed::<RoleBinding>()?.role_ref),
            "clusterrolebindings" => {
                check_binding(attributes, &object.typed::<ClusterRoleBinding>()?.role_ref)
            }
            _ => Ok(()),
        }
    }
}

/// An object without what grants nothing.
fn stripped(object: &Object) -> Value {
    let mut object = object.clone();
    HARMLESS.iter().for_each(|field| _ = object.meta_mut().remove(*field));
    object.into_value()
}

/// What will be gathered is not known, so only who holds everything may gather.
fn check_gathering(attributes: &Attributes) -> Result<(), ApiError> {
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]}]);
    let everything: Vec<PolicyRule> =
        serde_json::from_value(everything).map_err(ApiError::internal)?;
    if missing(attributes, &everything).is_empty() || may(attributes, "escalate", None) {
        return Ok(());
    }
    let call = attributes.call;
    let why = "must have cluster-admin privileges to use an aggregationRule";
    Err(ApiError::forbidden(&call.info.gvr, &call.name, why))
}

fn check_role(attributes: &Attributes, rules: &Option<Vec<PolicyRule>>) -> Result<(), ApiError> {
    if may(attributes, "escalate", None) {
        return Ok(());
    }
    check_held(attributes, rules.as_deref().unwrap_or_default())
}

fn check_binding(attributes: &Attributes, role: &RoleRef) -> Result<(), ApiError> {
    let resource = if role.kind == "Role" { &ROLES } else { &CLUSTER_ROLES };
    if may(attributes, "bind", Some((resource, &role.name))) {
        return Ok(());
    }
    let rules = attributes.server.rules.of_role(&attributes.call.namespace, role);
    let rules = rules.ok_or_else(|| ApiError::not_found(resource, &role.name))?;
    check_held(attributes, &rules)
}

/// Whether the writer has a verb on a role: the one that is written, or the one that is bound.
fn may(attributes: &Attributes, verb: &str, role: Option<(&Gvr, &str)>) -> bool {
    let call = attributes.call;
    // A creation names nothing in its URL.
    let own_name = if attributes.verb == Verb::Create { "" } else { call.name.as_str() };
    let (resource, name) = role.unwrap_or((&call.info.gvr, own_name));
    let asked = authz::Attributes {
        verb,
        resource: Some(resource),
        subresource: "",
        namespace: &call.namespace,
        name,
        path: "",
    };
    attributes.server.authorize_user(&call.user, &asked).is_ok()
}

fn missing(attributes: &Attributes, rules: &[PolicyRule]) -> Vec<PolicyRule> {
    let call = attributes.call;
    let held = attributes.server.rules.of_user(&call.user, &call.namespace);
    escalation::missing(&held, rules)
}

fn check_held(attributes: &Attributes, rules: &[PolicyRule]) -> Result<(), ApiError> {
    let missing = missing(attributes, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let call = attributes.call;
    let why = escalation::refusal(&call.user, &missing);
    Err(ApiError::forbidden(&call.info.gvr, &call.name, why))
}
