//! `status.typeChecking` of ValidatingAdmissionPolicies: what their expressions get wrong about the
//! kinds that they are for. Warnings only, since a policy may be about kinds with different fields.
//!
//! Upstream has a controller for it; here the status is of the same write as the spec, so that
//! nobody sees one without the other.

use k8s_openapi::api::admissionregistration::v1::{
    NamedRuleWithOperations, ValidatingAdmissionPolicySpec,
};
use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::cel::{Type, openapi};
use crate::api::kinds::validating_admission_policy::type_warnings;
use crate::api::registry::Registry;
use crate::api::resource::{Generation, KindInfo};
use crate::api::{ApiError, Object};
use crate::apiserver::update::is_new_generation;

/// Most kinds that a policy is checked against (upstream's bound).
const MAX_KINDS: usize = 10;

pub struct TypeChecking;

impl Admitter for TypeChecking {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let is_policy =
            attributes.is("admissionregistration.k8s.io", "validatingadmissionpolicies");
        if !is_policy || attributes.verb == Verb::Delete {
            return Ok(());
        }
        let generation = match attributes.old {
            Some(old) if !is_new_generation(Generation::Spec, object, old) => return Ok(()),
            Some(old) => old.generation() + 1,
            None => 1,
        };
        let spec = object.get("spec").cloned().unwrap_or_default();
        // What is no spec is refused by validation.
        let Ok(spec) = serde_json::from_value::<ValidatingAdmissionPolicySpec>(spec) else {
            return Ok(());
        };
        let registry = attributes.server.registry();
        let kinds: Vec<(String, Type)> = kinds(&spec, &registry)
            .into_iter()
            .map(|info| (shown(info), openapi::type_of(info)))
            .collect();
        let warnings = type_warnings(&spec, &kinds, &params(&spec, &registry));
        let mut checking = json!({});
        if !warnings.is_empty() {
            checking["expressionWarnings"] =
                serde_json::to_value(warnings).map_err(ApiError::internal)?;
        }
        let mut status = object.get("status").cloned().filter(Value::is_object);
        let fields = status.get_or_insert_with(|| json!({}));
        fields["observedGeneration"] = generation.into();
        fields["typeChecking"] = checking;
        object.set("status", status.unwrap_or_default());
        outcome.changed = true;
        Ok(())
    }
}

/// `apps/v1, Kind=Deployment`.
fn shown(info: &KindInfo) -> String {
    format!("{}/{}, Kind={}", info.gvr.group, info.gvr.version, info.kind)
}

/// The kinds that the rules name; none of those with a wildcard.
fn kinds<'a>(spec: &ValidatingAdmissionPolicySpec, registry: &'a Registry) -> Vec<&'a KindInfo> {
    let rules = spec.match_constraints.iter().flat_map(|found| found.resource_rules.iter());
    let rules: Vec<&NamedRuleWithOperations> = rules.flatten().collect();
    let mut found: Vec<&KindInfo> =
        registry.rows().iter().map(|row| &**row).filter(|row| is_named(&rules, row)).collect();
    found.sort_by_key(|info| {
        (info.gvr.group.to_string(), info.gvr.version.to_string(), info.kind.to_string())
    });
    found.truncate(MAX_KINDS);
    found
}

fn is_named(rules: &[&NamedRuleWithOperations], info: &KindInfo) -> bool {
    rules.iter().any(|rule| {
        let lists = [
            (&rule.api_groups, &info.gvr.group),
            (&rule.api_versions, &info.gvr.version),
            (&rule.resources, &info.gvr.resource),
        ];
        lists.into_iter().all(|(list, own)| {
            let list = list.as_deref().unwrap_or_default();
            !list.iter().any(|text| text.contains('*')) && list.iter().any(|text| text == own)
        })
    })
}

fn params(spec: &ValidatingAdmissionPolicySpec, registry: &Registry) -> Type {
    let kind = spec.param_kind.as_ref();
    let named = kind.and_then(|kind| Some((kind.api_version.as_deref()?, kind.kind.as_deref()?)));
    let info = named.and_then(|(api_version, kind)| registry.by_kind(api_version, kind));
    info.map_or(Type::Dyn, |info| openapi::type_of(info))
}
