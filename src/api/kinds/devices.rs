//! What the kinds of resource.k8s.io/v1 share: claims of devices, selectors, configuration of drivers.
//! Selectors in CEL are stored and not compiled: nothing allocates devices.
//!
//! Upstream: pkg/apis/resource/validation/validation.go, pkg/apis/resource/v1/defaults.go.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{
    DeviceConstraint, DeviceRequest, DeviceRequestAllocationResult, DeviceSelector,
    DeviceToleration, OpaqueDeviceConfiguration, ResourceClaimSpec,
};

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::names;

/// Most requests, constraints and configurations of a claim, and most alternatives of a request.
const MAX_REQUESTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
pub const MAX_CONFIGS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_SELECTORS: usize = 32;
/// Longest expression, in bytes.
const EXPRESSION_MAX_BYTES: usize = 10 * 1024;
/// Longest parameters of a driver, in bytes.
const PARAMETERS_MAX_BYTES: usize = 10 * 1024;
/// Longest name of a pool, and longest identifier of an attribute, in bytes.
const POOL_NAME_MAX_BYTES: usize = 253;
const IDENTIFIER_MAX_BYTES: usize = 32;
const EXACT: &str = "ExactCount";
const ALL: &str = "All";

/// The names of requests, each with those of its alternatives.
pub type RequestNames = BTreeMap<String, BTreeSet<String>>;

pub fn default_claim(spec: &mut ResourceClaimSpec) {
    let claim = spec.devices.get_or_insert_default();
    for request in claim.requests.iter_mut().flatten() {
        if let Some(exactly) = &mut request.exactly {
            default_count(&mut exactly.allocation_mode, &mut exactly.count);
            default_tolerations(&mut exactly.tolerations);
        }
        for one in request.first_available.iter_mut().flatten() {
            default_count(&mut one.allocation_mode, &mut one.count);
            default_tolerations(&mut one.tolerations);
        }
    }
}

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    checks::default_text(mode, EXACT);
    if mode.as_deref() == Some(EXACT) && count.unwrap_or_default() == 0 {
        *count = Some(1);
    }
}

fn default_tolerations(tolerations: &mut Option<Vec<DeviceToleration>>) {
    for toleration in tolerations.iter_mut().flatten() {
        checks::default_text(&mut toleration.operator, "Equal");
    }
}

pub fn request_names(spec: &ResourceClaimSpec) -> RequestNames {
    let requests = spec.devices.iter().flat_map(|claim| claim.requests.iter().flatten());
    let alternatives = |request: &DeviceRequest| {
        request.first_available.iter().flatten().map(|one| one.name.clone()).collect()
    };
    requests.map(|request| (request.name.clone(), alternatives(request))).collect()
}

pub fn validate_claim(errors: &mut Errors, path: &Path, spec: &ResourceClaimSpec) {
    let claim = spec.devices.clone().unwrap_or_default();
    let known = request_names(spec);
    let path = path.child("devices");
    let at = path.child("requests");
    let requests = claim.requests.unwrap_or_default();
    if requests.len() > MAX_REQUESTS {
        return errors.too_many(&at, requests.len(), MAX_REQUESTS);
    }
    let mut seen = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let at = at.index(i);
        validate_request(errors, &at, request);
        if !seen.insert(&request.name) {
            errors.duplicate(&at.child("name"), &request.name);
        }
    }
    let at = path.child("constraints");
    let constraints = claim.constraints.unwrap_or_default();
    if constraints.len() > MAX_CONSTRAINTS {
        return errors.too_many(&at, constraints.len(), MAX_CONSTRAINTS);
    }
    for (i, constraint) in constraints.iter().enumerate() {
        validate_constraint(errors, &at.index(i), constraint, &known);
    }
    let at = path.child("config");
    let config = claim.config.unwrap_or_default();
    if config.len() > MAX_CONFIGS {
        return errors.too_many(&at, config.len(), MAX_CONFIGS);
    }
    for (i, one) in config.iter().enumerate() {
        let at = at.index(i);
        validate_references(errors, &at.child("requests"), one.requests.as_deref(), &known);
        validate_opaque(errors, &at, one.opaque.as_ref());
    }
}

fn validate_request(errors: &mut Errors, path: &Path, request: &DeviceRequest) {
    label(errors, &path.child("name"), &request.name);
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    match (&request.exactly, alternatives.is_empty()) {
        (None, true) => errors.required(path, ONE),
        (Some(_), false) => {
            errors.invalid(path, (), &format!("{ONE}, but multiple fields are set"));
        }
        (Some(exactly), true) => {
            let path = path.child("exactly");
            checks::object_name(errors, &path.child("deviceClassName"), &exactly.device_class_name);
            let selectors = exactly.selectors.as_deref().unwrap_or_default();
            validate_selectors(errors, &path.child("selectors"), selectors);
            validate_count(errors, &path, exactly.allocation_mode.as_deref(), exactly.count);
        }
        (None, false) => {
            let at = path.child("firstAvailable");
            if alternatives.len() > MAX_ALTERNATIVES {
                return errors.too_many(&at, alternatives.len(), MAX_ALTERNATIVES);
            }
            let mut seen = BTreeSet::new();
            for (i, one) in alternatives.iter().enumerate() {
                let at = at.index(i);
                label(errors, &at.child("name"), &one.name);
                if !seen.insert(&one.name) {
                    errors.duplicate(&at.child("name"), &one.name);
                }
                checks::object_name(errors, &at.child("deviceClassName"), &one.device_class_name);
                let selectors = one.selectors.as_deref().unwrap_or_default();
                validate_selectors(errors, &at.child("selectors"), selectors);
                validate_count(errors, &at, one.allocation_mode.as_deref(), one.count);
            }
        }
    }
}

fn validate_count(errors: &mut Errors, path: &Path, mode: Option<&str>, count: Option<i64>) {
    let at = path.child("count");
    match (mode.unwrap_or_default(), count.unwrap_or_default()) {
        (ALL, 0) => {}
        (ALL, count) => {
            let detail = format!("must not be specified when allocationMode is '{ALL}'");
            errors.invalid(&at, count, &detail);
        }
        (EXACT, count) if count <= 0 => {
            errors.invalid(&at, count, "must be greater than zero");
        }
        (EXACT, _) => {}
        (other, _) => errors.not_supported(&path.child("allocationMode"), other, &[ALL, EXACT]),
    }
}

pub fn validate_selectors(errors: &mut Errors, path: &Path, selectors: &[DeviceSelector]) {
    if selectors.len() > MAX_SELECTORS {
        return errors.too_many(path, selectors.len(), MAX_SELECTORS);
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = path.index(i);
        let path = path.child("cel");
        match &selector.cel {
            None => errors.required(&path, ""),
            Some(cel) if cel.expression.is_empty() => {
                errors.required(&path.child("expression"), "");
            }
            Some(cel) if cel.expression.len() > EXPRESSION_MAX_BYTES => {
                errors.too_long(&path.child("expression"), EXPRESSION_MAX_BYTES);
            }
            Some(_) => {}
        }
    }
}

fn validate_constraint(
    errors: &mut Errors,
    path: &Path,
    constraint: &DeviceConstraint,
    known: &RequestNames,
) {
    validate_references(errors, &path.child("requests"), constraint.requests.as_deref(), known);
    let (same, other) = (&constraint.match_attribute, &constraint.distinct_attribute);
    match (same, other) {
        (Some(name), _) => validate_full_name(errors, &path.child("matchAttribute"), name),
        (None, Some(name)) => {
            validate_full_name(errors, &path.child("distinctAttribute"), name);
        }
        (None, None) => {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required";
            errors.required(path, detail);
        }
    }
}

fn validate_references(
    errors: &mut Errors,
    path: &Path,
    requests: Option<&[String]>,
    known: &RequestNames,
) {
    let mut seen = BTreeSet::new();
    for (i, name) in requests.unwrap_or_default().iter().enumerate() {
        validate_reference(errors, &path.index(i), name, known);
        if !seen.insert(name) {
            errors.duplicate(&path.index(i), name);
        }
    }
}

fn validate_reference(errors: &mut Errors, path: &Path, name: &str, known: &RequestNames) {
    let found = match name.split_once('/') {
        None => known.contains_key(name),
        Some((request, part)) => known.get(request).is_some_and(|parts| parts.contains(part)),
    };
    if !found {
        let detail = "must be the name of a request in the claim or the name of a request and a \
                      subrequest separated by '/'";
        errors.invalid(path, name, detail);
    }
}

pub fn validate_opaque(
    errors: &mut Errors,
    path: &Path,
    opaque: Option<&OpaqueDeviceConfiguration>,
) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else { return errors.required(&path, "") };
    checks::driver_name(errors, &path.child("driver"), &opaque.driver);
    let at = path.child("parameters");
    match &opaque.parameters.0 {
        serde_json::Value::Null => errors.required(&at, ""),
        parameters if !parameters.is_object() => {
            errors.invalid(&at, parameters, "must be a valid JSON object");
        }
        parameters if parameters.to_string().len() > PARAMETERS_MAX_BYTES => {
            errors.too_long(&at, PARAMETERS_MAX_BYTES);
        }
        _ => {}
    }
}

/// What was allocated for the requests of a claim.
pub fn validate_results(
    errors: &mut Errors,
    path: &Path,
    results: &[DeviceRequestAllocationResult],
    known: &RequestNames,
) {
    let path = path.child("devices");
    let path = path.child("results");
    if results.len() > MAX_REQUESTS {
        return errors.too_many(&path, results.len(), MAX_REQUESTS);
    }
    for (i, result) in results.iter().enumerate() {
        let path = path.index(i);
        validate_reference(errors, &path.child("request"), &result.request, known);
        checks::driver_name(errors, &path.child("driver"), &result.driver);
        validate_pool_name(errors, &path.child("pool"), &result.pool);
        label(errors, &path.child("device"), &result.device);
    }
}

pub fn validate_pool_name(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > POOL_NAME_MAX_BYTES {
        errors.too_long(path, POOL_NAME_MAX_BYTES);
    }
    for part in name.split('/') {
        names::report(errors, path, part, names::is_dns1123_subdomain(part));
    }
}

/// Required, and a label.
pub fn label(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        checks::dns_label(errors, path, name);
    }
}

/// `domain/identifier`, or an identifier of the driver's own domain.
pub fn validate_qualified(errors: &mut Errors, path: &Path, name: &str) {
    let (domain, identifier) = match name.split_once('/') {
        Some((domain, identifier)) => (Some(domain), identifier),
        None => (None, name),
    };
    if let Some(domain) = domain {
        checks::object_name(errors, path, domain);
    }
    if identifier.is_empty() {
        return errors.required(path, "the name must not be empty");
    }
    if identifier.len() > IDENTIFIER_MAX_BYTES {
        errors.too_long(path, IDENTIFIER_MAX_BYTES);
    }
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !identifier.starts_with(first) || !identifier.chars().all(rest) {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed \
                      by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  \
                      or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid(path, identifier, detail);
    }
}

fn validate_full_name(errors: &mut Errors, path: &Path, name: &str) {
    validate_qualified(errors, path, name);
    if !name.contains('/') {
        errors.invalid(path, name, "must include a domain");
    }
}
