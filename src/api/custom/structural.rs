//! Which schemas a definition may have: structural ones, that say a type for everything and hold no
//! construct by which a value could not be pruned
//! (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/validation.go).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;

use super::schema::{Schema, pattern};
use super::{cel_rules, validate};
use crate::api::field::{Errors, Path};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// All that is wrong with the schema of a version.
pub fn check(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    match props.type_.as_deref() {
        Some("object") => {}
        None | Some("") => errors.required(&path.child("type"), "must not be empty at the root"),
        Some(other) => errors.invalid(&path.child("type"), other, "must be object at the root"),
    }
    if props.nullable == Some(true) {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let before = errors.len();
    node(props, path, errors);
    // Rules are about types, and so about a schema that says them.
    if errors.len() == before {
        cel_rules::check(props, path, errors);
    }
}

fn node(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let anything = props.x_kubernetes_preserve_unknown_fields == Some(true);
    let int_or_string = props.x_kubernetes_int_or_string == Some(true);
    match props.type_.as_deref().unwrap_or_default() {
        "" => {}
        kind if int_or_string => {
            let detail = "must be empty if x-kubernetes-int-or-string is true";
            errors.invalid(&path.child("type"), kind, detail);
        }
        kind if !TYPES.contains(&kind) => {
            errors.not_supported(&path.child("type"), kind, TYPES);
        }
        "array" if props.items.is_none() => {
            errors.required(&path.child("items"), "must be specified");
        }
        kind => {
            if anything && kind != "object" {
                let detail = "must be object if x-kubernetes-preserve-unknown-fields is true";
                errors.invalid(&path.child("type"), kind, detail);
            }
        }
    }
    if props.x_kubernetes_embedded_resource == Some(true) {
        if props.type_.as_deref() != Some("object") {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            errors.invalid(&path.child("type"), &props.type_, detail);
        }
        if !anything && props.properties.is_none() {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                          x-kubernetes-preserve-unknown-fields";
            errors.required(&path.child("properties"), detail);
        }
    }
    forbidden(props, path, errors);
    if let Some(text) = &props.pattern
        && let Err(why) = pattern(text)
    {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(&path.child("pattern"), text, &detail);
    }
    list(props, path, errors);
    default(props, path, errors);
    children(props, path, errors);
}

/// What values could not be pruned by, or is too costly to check.
fn forbidden(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let mut refuse = |is_set: bool, field: &str, detail: &str| {
        if is_set {
            errors.forbidden(&path.child(field), detail);
        }
    };
    refuse(props.ref_path.is_some(), "$ref", "$ref is not supported");
    refuse(props.definitions.is_some(), "definitions", "definitions is not supported");
    refuse(props.dependencies.is_some(), "dependencies", "dependencies is not supported");
    refuse(props.id.is_some(), "id", "id is not supported");
    refuse(props.additional_items.is_some(), "additionalItems", "additionalItems is forbidden");
    let detail = "patternProperties is not supported";
    refuse(props.pattern_properties.is_some(), "patternProperties", detail);
    let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
    refuse(props.unique_items == Some(true), "uniqueItems", detail);
    let several = matches!(props.items, Some(ext::JSONSchemaPropsOrArray::Schemas(_)));
    refuse(several, "items", "items must be a schema object and not an array");
    let is_false =
        matches!(props.additional_properties, Some(ext::JSONSchemaPropsOrBool::Bool(false)));
    refuse(is_false, "additionalProperties", "must not be false");
    let both = props.properties.as_ref().is_some_and(|fields| !fields.is_empty())
        && props.additional_properties.is_some();
    let detail = "additionalProperties and properties are mutual exclusive";
    refuse(both, "additionalProperties", detail);
    let kept = props.x_kubernetes_preserve_unknown_fields == Some(false);
    let detail = "must be true or undefined";
    refuse(kept, "x-kubernetes-preserve-unknown-fields", detail);
}

fn list(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let kind = props.x_kubernetes_list_type.as_deref();
    let at = path.child("x-kubernetes-list-type");
    match kind {
        None => {}
        Some(kind) if !["atomic", "map", "set"].contains(&kind) => {
            errors.not_supported(&at, kind, &["atomic", "map", "set"]);
        }
        Some(_) if props.type_.as_deref() != Some("array") => {
            let detail = "must be array if x-kubernetes-list-type is specified";
            errors.invalid(&path.child("type"), &props.type_, detail);
        }
        Some(_) => {}
    }
    let keys = props.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let at = path.child("x-kubernetes-list-map-keys");
    if kind == Some("map") && keys.is_empty() {
        errors.required(&at, "must not be empty if x-kubernetes-list-type is map");
    } else if kind != Some("map") && !keys.is_empty() {
        errors.forbidden(&at, "must be empty if x-kubernetes-list-type is not map");
    }
    if let Some(ext::JSONSchemaPropsOrArray::Schema(item)) = &props.items {
        for (index, key) in keys.iter().enumerate() {
            if !item.properties.iter().flatten().any(|(name, _)| name == key) {
                let detail = "entries must all be names of item properties";
                errors.invalid(&at.index(index), key, detail);
            }
        }
    }
    let kind = props.x_kubernetes_map_type.as_deref();
    if let Some(kind) = kind.filter(|kind| !["atomic", "granular"].contains(kind)) {
        let at = path.child("x-kubernetes-map-type");
        errors.not_supported(&at, kind, &["atomic", "granular"]);
    }
}

/// A default obeys the schema that it stands in.
fn default(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let Some(default) = &props.default else { return };
    let at = path.child("default");
    let schema = Schema::parse(props);
    let mut value = default.0.clone();
    let mut unknown = Vec::new();
    super::prune::prune_value(&schema, &mut value, &mut unknown);
    if !unknown.is_empty() {
        errors.invalid(&at, &default.0, "must not have unknown fields");
    }
    super::default::set_defaults(&schema, &mut value);
    for error in validate::validate(&schema, &value) {
        errors.invalid(&at, &default.0, &error.body());
    }
}

fn children(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let properties = path.child("properties");
    for (name, field) in props.properties.iter().flatten() {
        let at = properties.key(name);
        has_type(field, &at, "specified object fields", errors);
        node(field, &at, errors);
    }
    if let Some(ext::JSONSchemaPropsOrArray::Schema(item)) = &props.items {
        let at = path.child("items");
        has_type(item, &at, "specified array items", errors);
        node(item, &at, errors);
    }
    if let Some(ext::JSONSchemaPropsOrBool::Schema(values)) = &props.additional_properties {
        let at = path.child("additionalProperties");
        has_type(values, &at, "specified object fields", errors);
        node(values, &at, errors);
    }
    for (name, list) in
        [("allOf", &props.all_of), ("anyOf", &props.any_of), ("oneOf", &props.one_of)]
    {
        let at = path.child(name);
        for (index, part) in list.iter().flatten().enumerate() {
            junctor(part, props, name == "allOf", &at.index(index), errors);
        }
    }
    if let Some(part) = &props.not {
        junctor(part, props, false, &path.child("not"), errors);
    }
}

fn has_type(props: &ext::JSONSchemaProps, path: &Path, of: &str, errors: &mut Errors) {
    let free = props.x_kubernetes_preserve_unknown_fields == Some(true)
        || props.x_kubernetes_int_or_string == Some(true);
    if !free && props.type_.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.child("type"), &format!("must not be empty for {of}"));
    }
}

/// Alternatives only restrict what the schema around them specifies.
fn junctor(
    part: &ext::JSONSchemaProps,
    around: &ext::JSONSchemaProps,
    takes_rules: bool,
    path: &Path,
    errors: &mut Errors,
) {
    let mut refuse = |is_set: bool, field: &str| {
        if is_set {
            errors.forbidden(&path.child(field), "must be empty to be structural");
        }
    };
    let int_or_string = around.x_kubernetes_int_or_string == Some(true);
    refuse(part.type_.is_some() && !int_or_string, "type");
    refuse(part.default.is_some(), "default");
    refuse(part.nullable == Some(true), "nullable");
    refuse(part.title.is_some(), "title");
    refuse(part.description.is_some(), "description");
    refuse(part.additional_properties.is_some(), "additionalProperties");
    let has_rules = part.x_kubernetes_validations.is_some();
    refuse(has_rules && !takes_rules, "x-kubernetes-validations");
    let properties = path.child("properties");
    for (name, field) in part.properties.iter().flatten() {
        let at = properties.key(name);
        match around.properties.iter().flatten().find(|(known, _)| *known == name) {
            Some((_, known)) => junctor(field, known, takes_rules, &at, errors),
            None => {
                let detail = "must also be specified outside of the alternatives";
                errors.required(&at, detail);
            }
        }
    }
}
