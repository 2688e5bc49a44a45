//! ValidatingAdmissionPolicyBinding (admissionregistration.k8s.io/v1).

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::Value;

use super::admission_policy as policy;
use super::admission_policy_binding::{self as binding, Bound};
use crate::api::field::{Errors, Path};
use crate::api::resource::{Kind, KindMeta};
use crate::api::table::Column;

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
        binding::validate(errors, bound(self));
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
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
        binding::COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        binding::row(&self.metadata, bound(self), now)
    }
}

fn bound(object: &ValidatingAdmissionPolicyBinding) -> Bound<'_> {
    object.spec.as_ref().map_or_else(Bound::default, |spec| Bound {
        policy: spec.policy_name.as_deref().unwrap_or_default(),
        params: spec.param_ref.as_ref(),
        resources: spec.match_resources.as_ref(),
    })
}
