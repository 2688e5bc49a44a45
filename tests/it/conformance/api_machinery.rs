//! The cases of sig-api-machinery.

mod chunking;
mod crd;
mod custom_definitions;
mod discovery;
mod field_validation;
mod flow_control;
mod namespaces;
mod publish_openapi;
mod quotas;
mod watchers;

use super::Case;

pub const CASES: &[&[Case]] = &[
    chunking::CASES,
    custom_definitions::CASES,
    discovery::CASES,
    field_validation::CASES,
    namespaces::CASES,
    publish_openapi::CASES,
    quotas::CASES,
    quotas::SCOPES,
    watchers::CASES,
];
