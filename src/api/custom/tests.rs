//! Schemas at work.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use serde_json::{Value, json};

use super::definition::preference;
use super::schema::Schema;
use super::{default, prune, structural, validate};
use crate::api::Kind;
use crate::api::field::{Errors, Path};

fn props(schema: Value) -> ext::JSONSchemaProps {
    serde_json::from_value(schema).unwrap()
}

fn schema() -> Schema {
    Schema::parse(&props(json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 5, "pattern": "^[a-z]+$"},
            "size": {"type": "integer", "minimum": 1, "maximum": 9, "default": 2},
            "port": {"x-kubernetes-int-or-string": true},
            "color": {"type": "string", "enum": ["red", "blue"]},
            "maybe": {"type": "string", "nullable": true},
            "nested": {"type": "object", "default": {}, "properties": {
                "deep": {"type": "boolean", "default": true}}},
            "words": {"type": "array", "items": {"type": "string"},
                "x-kubernetes-list-type": "set"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
            "when": {"type": "string", "format": "date-time"},
        }},
    }})))
}

fn texts(spec: Value) -> Vec<String> {
    let errors = validate::validate(&schema(), &json!({"spec": spec}));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_not_specified_is_pruned_and_told() {
    let mut value = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "odd": 1,
        "spec": {"name": "abc", "odd": 1, "free": {"any": {"thing": 1}}, "labels": {"a": "b"},
            "ports": [{"name": "x", "odd": 1}], "inner": {"kind": "Pod", "metadata": {}}}});
    let mut unknown = Vec::new();
    prune::prune(&schema(), &mut value, &mut unknown);
    unknown.sort();
    assert_eq!(unknown, ["odd", "spec.odd", "spec.ports[0].odd"]);
    assert_eq!(value["spec"]["free"]["any"]["thing"], 1);
    assert_eq!(value["spec"]["ports"], json!([{"name": "x"}]));
    assert_eq!(value["kind"], "K");
}

#[test]
fn defaults_are_set_from_the_outside_in() {
    let mut value = json!({"spec": {"name": null, "maybe": null, "size": null}});
    default::set_defaults(&schema(), &mut value);
    let spec = json!({"maybe": null, "size": 2, "nested": {"deep": true}});
    assert_eq!(value, json!({"spec": spec}));
}

#[test]
fn errors_have_the_texts_that_people_know() {
    assert_eq!(texts(json!({})), ["spec.name: Required value"]);
    assert_eq!(
        texts(json!({"name": "ab"})),
        ["spec.name: Invalid value: \"ab\": spec.name in body should be at least 3 chars long"]
    );
    assert_eq!(
        texts(json!({"name": "abcdef"})),
        ["spec.name: Too long: may not be more than 5 bytes"]
    );
    assert_eq!(
        texts(json!({"name": "AbC"})),
        ["spec.name: Invalid value: \"AbC\": spec.name in body should match '^[a-z]+$'"]
    );
    assert_eq!(
        texts(json!({"name": "abc", "size": "x"})),
        ["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \
          \"string\""]
    );
    assert_eq!(
        texts(json!({"name": "abc", "size": 10})),
        ["spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9"]
    );
    assert_eq!(
        texts(json!({"name": "abc", "color": "green"})),
        ["spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""]
    );
    assert_eq!(
        texts(json!({"name": "abc", "words": ["a", "b", "a"]})),
        ["spec.words[2]: Duplicate value: \"a\""]
    );
    assert_eq!(
        texts(json!({"name": "abc", "ports": [{"name": "a"}, {"name": "a"}]})),
        ["spec.ports[1]: Duplicate value: {\"name\":\"a\"}"]
    );
    assert_eq!(
        texts(json!({"name": "abc", "inner": {"kind": "Pod"}})),
        ["spec.inner.apiVersion: Required value: must not be empty"]
    );
    assert_eq!(texts(json!({"name": "abc", "when": "today"})).len(), 1);
    let good = json!({"name": "abc", "port": 1, "maybe": null, "when": "2026-01-01T00:00:00Z"});
    assert!(texts(good).is_empty());
    assert!(texts(json!({"name": "abc", "port": "http", "size": 3.0})).is_empty());
    assert_eq!(texts(json!({"name": "abc", "port": true})).len(), 1);
}

#[test]
fn only_structural_schemas_pass() {
    let check = |schema: Value| {
        let mut errors = Errors::default();
        structural::check(&props(schema), &Path::new("s"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(check(json!({})), ["s.type: Required value: must not be empty at the root"]);
    assert_eq!(
        check(json!({"type": "object", "properties": {"a": {}}})),
        ["s.properties[a].type: Required value: must not be empty for specified object fields"]
    );
    let bad = json!({"type": "object", "properties": {
        "a": {"type": "array"}, "b": {"type": "string", "pattern": "("},
        "c": {"type": "integer", "default": "x"}, "d": {"type": "object", "$ref": "#/x"},
        "e": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}}});
    assert_eq!(check(bad).len(), 5);
    let good = json!({"type": "object", "properties": {"a": {"type": "object", "default": {},
        "properties": {"b": {"type": "string", "default": "x"}}}}});
    assert!(check(good).is_empty());
}

#[test]
fn versions_are_preferred_as_upstream_does() {
    let mut versions = ["foo1", "v3beta1", "v2", "v1", "v10", "v11alpha2", "v12alpha1", "foo10"];
    versions.sort_by_key(|version| preference(version));
    assert_eq!(versions, ["v10", "v2", "v1", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]);
}

/// A release that did not estimate costs may have stored what this one refuses.
#[test]
fn costs_of_stored_schemas_are_not_asked() {
    let definition = |label: &str, rule: &str| -> ext::CustomResourceDefinition {
        let schema = json!({"type": "object", "properties": {"words": {"type": "array",
            "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": rule}]}}});
        let version = json!({"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}});
        serde_json::from_value(json!({"metadata": {"name": "as.b.c", "labels": {"l": label}},
            "spec": {"group": "b.c", "scope": "Cluster", "names": {"plural": "as", "kind": "A"},
                "versions": [version]}}))
        .unwrap()
    };
    let refused = |new: &ext::CustomResourceDefinition,
                   old: Option<&ext::CustomResourceDefinition>| {
        let mut errors = Errors::default();
        match old {
            Some(old) => new.validate_update(old, &mut errors),
            None => new.validate_create(&mut errors),
        }
        !errors.is_empty()
    };
    let squared = "self.all(a, self.all(b, a != b))";
    let old = definition("old", squared);
    assert!(refused(&old, None));
    assert!(!refused(&definition("new", squared), Some(&old)));
    assert!(refused(&definition("new", &format!("{squared} || true")), Some(&old)));
    assert!(!refused(&definition("new", "self.size() < 3"), Some(&old)));
}
