//! What the bindings of both kinds of admission policies share: which policy they put to work, for
//! what, and with which parameters.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{MatchResources, ParamRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::admission_policy as policy;
use crate::api::field::{Errors, Path};
use crate::api::names::{self, is_dns1123_subdomain};
use crate::api::table::{self, Column};

pub const COLUMNS: &[Column] = &[
    table::NAME,
    Column::new("PolicyName", "string", "The policy that is bound."),
    Column::new("ParamRef", "string", "The parameters that the policy gets."),
    table::AGE,
];

/// The parts of a binding's spec that both kinds have.
#[derive(Clone, Copy, Default)]
pub struct Bound<'a> {
    pub policy: &'a str,
    pub params: Option<&'a ParamRef>,
    pub resources: Option<&'a MatchResources>,
}

pub fn validate(errors: &mut Errors, bound: Bound) {
    let path = Path::new("spec");
    let at = path.child("policyName");
    match bound.policy {
        "" => errors.required(&at, ""),
        name => names::report(errors, &at, name, is_dns1123_subdomain(name)),
    }
    if let Some(reference) = bound.params {
        policy::validate_param_ref(errors, &path.child("paramRef"), reference);
    }
    if let Some(resources) = bound.resources {
        policy::validate_match(errors, &path.child("matchResources"), resources);
    }
}

pub fn row(metadata: &ObjectMeta, bound: Bound, now: Timestamp) -> Vec<Value> {
    vec![
        table::name(metadata),
        bound.policy.into(),
        policy::param_ref_text(bound.params).into(),
        table::age(metadata, now),
    ]
}
