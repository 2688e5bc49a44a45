//! ValidatingAdmissionPolicyBinding (admissionregistration.k8s.io/v1).

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::Value;

use super::admission_policy as policy;
use crate::api::field::{Errors, Path};
use crate::api::names::{self, is_dns1123_subdomain};
use crate::api::resource::{Kind, KindMeta};
use crate::api::table::{self, Column};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

impl Kind for ValidatingAdmissionPolicyBinding {
    const META: KindMeta =
        KindMeta { singular: "validatingadmissionpolicybinding", ..policy::META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.as_mut();
        if let Some(resources) = spec.and_then(|spec| spec.match_resources.as_mut()) {
            policy::set_match_defaults(resources);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        let at = path.child("policyName");
        match spec.policy_name.as_deref().unwrap_or_default() {
            "" => errors.required(&at, ""),
            name => names::report(errors, &at, name, is_dns1123_subdomain(name)),
        }
        if let Some(reference) = &spec.param_ref {
            policy::validate_param_ref(errors, &path.child("paramRef"), reference);
        }
        if let Some(resources) = &spec.match_resources {
            policy::validate_match(errors, &path.child("matchResources"), resources);
        }
        let at = path.child("validationActions");
        let actions = spec.validation_actions.unwrap_or_default();
        let mut seen = HashSet::new();
        for (index, action) in actions.iter().enumerate() {
            if !ACTIONS.contains(&action.as_str()) {
                errors.not_supported(&at.index(index), action, ACTIONS);
            }
            if !seen.insert(action.as_str()) {
                errors.duplicate(&at.index(index), action);
            }
        }
        if seen.contains("Deny") && seen.contains("Warn") {
            let detail = "must not contain both Deny and Warn (repeating the same validation \
                          failure information in the API response and headers serves no purpose)";
            errors.invalid(&at, &actions, detail);
        }
        if actions.is_empty() {
            errors.required(&at, "at least one validation action is required");
        }
    }

    fn warnings(&self) -> Vec<String> {
        let actions = self.spec.iter().filter_map(|spec| spec.validation_actions.as_ref());
        let audits = actions.flatten().any(|action| action == "Audit");
        let text = "spec.validationActions: Audit has no effect: this server keeps no audit log";
        audits.then(|| text.to_string()).into_iter().collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("PolicyName", "string", "The policy that is bound."),
            Column::new("ParamRef", "string", "The parameters that the policy gets."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let name = spec.and_then(|spec| spec.policy_name.clone()).unwrap_or_default();
        let reference = spec.and_then(|spec| spec.param_ref.as_ref());
        vec![
            table::name(&self.metadata),
            name.into(),
            policy::param_ref_text(reference).into(),
            table::age(&self.metadata, now),
        ]
    }
}
