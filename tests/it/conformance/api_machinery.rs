//! The cases of sig-api-machinery.

mod chunking;
mod conversion;
mod crd;
mod custom_definitions;
mod discovery;
mod field_validation;
mod flow_control;
mod garbage_collector;
mod namespaces;
mod policies;
mod publish_openapi;
mod quotas;
mod watchers;
mod webhook_configurations;
mod webhooks;

use super::Case;

pub const CASES: &[&[Case]] = &[
    chunking::CASES,
    conversion::CASES,
    custom_definitions::CASES,
    discovery::CASES,
    discovery::ALL_KINDS,
    field_validation::CASES,
    flow_control::CASES,
    garbage_collector::CASES,
    namespaces::CASES,
    policies::CASES,
    publish_openapi::CASES,
    quotas::CASES,
    quotas::SCOPES,
    watchers::CASES,
    webhooks::CASES,
    webhook_configurations::CASES,
];
