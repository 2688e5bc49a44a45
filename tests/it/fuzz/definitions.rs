//! The target for kinds that users define: an input is
//! `{"schema": …, "version": …, "object": …, "old": …}`.
//!
//! A definition is refused, or its rules work on whatever objects there are: what they made of an
//! object they leave as it is, and what they let through they can show.

use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use wasmfleet::api::custom::{definition, rules::CustomRules};
use wasmfleet::api::registry::Registry;
use wasmfleet::api::resource::{Operation, Rules};
use wasmfleet::api::{Object, strict};

use super::engine::Verdict;
use super::is_clients;

pub fn seeds() -> Vec<Vec<u8>> {
    let spec = json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.n <= self.l.size()", "message": "too many"},
            {"rule": "self.n >= oldSelf.n", "reason": "FieldValueForbidden", "fieldPath": ".n"},
            {"rule": "oldSelf.hasValue() || self.s == 'a'", "optionalOldSelf": true,
                "messageExpression": "'s: ' + self.s"}],
        "required": ["s"],
        "properties": {
            "n": {"type": "integer", "default": 1, "minimum": 0, "maximum": 9, "multipleOf": 1},
            "at": {"type": "string", "format": "date-time", "nullable": true},
            "s": {"type": "string", "pattern": "^\\w*$", "maxLength": 20, "default": "a"},
            "i": {"x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "m": {"type": "object", "maxProperties": 5, "additionalProperties": {
                "type": "object", "properties": {"x": {"type": "number", "default": 1.5}},
                "x-kubernetes-validations": [{"rule": "self.x > 0.0"}]}},
            "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"q": {"type": "boolean", "default": true}}},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 4,
                "items": {"type": "string", "enum": ["a", "b"], "maxLength": 1}},
            "not": {"type": "string", "not": {"enum": ["x"]}, "format": "ipv4"},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "maxItems": 9,
                "x-kubernetes-list-map-keys": ["k", "d"],
                "items": {"type": "object", "required": ["k"], "properties": {
                    "k": {"type": "string", "maxLength": 9},
                    "d": {"type": "integer", "default": 0}, "v": {"type": "string"}},
                    "x-kubernetes-validations": [
                        {"rule": "!has(self.v) || self.v.startsWith(self.k)"}]}}}});
    let schema = json!({"type": "object", "properties": {"spec": spec,
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let version = json!({"subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
        "additionalPrinterColumns": [
            {"name": "N", "type": "integer", "jsonPath": ".spec.n"},
            {"name": "L", "type": "string", "jsonPath": ".spec.l[?(@.k==\"a\")].v"},
            {"name": "At", "type": "date", "jsonPath": ".spec.at"}],
        "selectableFields": [{"jsonPath": ".spec.s"}]});
    let object = json!({"apiVersion": "example.com/v1", "kind": "Tab",
        "metadata": {"name": "t", "labels": {"a": "b"}},
        "spec": {"n": 1, "at": "2026-01-01T00:00:00Z", "s": "aa", "i": "5%", "m": {"a": {"x": 2}},
            "p": {"x": [1]}, "l": [{"k": "a", "v": "ab"}, {"k": "b", "d": 1}], "set": ["a"],
            "not": "1.2.3.4",
            "e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}}});
    let mut other = object.clone();
    other["spec"] = json!({"n": null, "s": null, "l": [{"k": "a"}], "unknown": {"a": 1}});
    let all = [(&object, &other), (&other, &object)].map(
        |(object, old)| json!({"schema": schema, "version": version, "object": object, "old": old}),
    );
    super::texts(all.to_vec())
}

fn defined(schema: Value, extra: Value) -> Value {
    let mut version = json!({"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": schema}});
    if let (Some(version), Value::Object(extra)) = (version.as_object_mut(), extra) {
        version.extend(extra);
    }
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "tabs", "kind": "Tab"}, "versions": [version]}})
}

pub fn run(input: &[u8]) -> Verdict {
    let Ok(parsed) = strict::parse(input) else { return Ok(()) };
    let Value::Object(mut parts) = parsed.value else { return Ok(()) };
    let mut part = |name: &str| parts.remove(name).unwrap_or_default();
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);
    let info = REGISTRY.by_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let whole = defined(part("schema"), part("version"));
    let draft = match info.rules.decode(whole, None, Operation::Create) {
        Ok(draft) => draft,
        Err(error) => return is_clients(&error),
    };
    if !info.rules.validate(&draft, Operation::Create).is_empty() {
        return Ok(());
    }
    let value = draft.object.clone().into_value();
    let typed: CustomResourceDefinition =
        serde_json::from_value(value).map_err(|e| e.to_string())?;
    definition::rows(&typed);
    let rules = CustomRules::of(&typed.spec.versions[0]);
    let old = part("old");
    let old = match old.is_object() {
        true => rules.decode(old, None, Operation::Create).ok(),
        false => None,
    };
    let object = part("object");
    if !object.is_object() {
        return Ok(());
    }
    check(&rules, object.clone(), None, Operation::Create)?;
    check(&rules, object, old.as_ref().map(|draft| &draft.object), Operation::Update)
}

fn check(
    rules: &CustomRules,
    object: Value,
    old: Option<&Object>,
    operation: Operation,
) -> Verdict {
    let draft = match rules.decode(object, old, operation) {
        Ok(draft) => draft,
        Err(error) => return is_clients(&error),
    };
    let valid = rules.validate(&draft, operation).is_empty();
    let before = draft.object.clone();
    let again = match rules.decode(before.clone().into_value(), old, operation) {
        Ok(again) => again,
        Err(error) => return Err(format!("what was decoded is refused: {}", error.message)),
    };
    if again.object != before {
        return Err(format!("{before:?} became {:?}", again.object));
    }
    if !again.unknown.is_empty() {
        return Err(format!("fields are unknown again: {:?}", again.unknown));
    }
    if !valid {
        return Ok(());
    }
    let raw = before.to_json();
    if !rules.is_complete(&raw) {
        return Err(format!("{before:?} is not complete"));
    }
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().map_err(|_| "no time")?;
    let row = rules.row(&raw, now).map_err(|error| error.message)?;
    if row.len() != rules.columns().len() {
        return Err("a row without a cell for each column".into());
    }
    rules.fields(&raw, &["spec.s", "spec..x", ""]).map_err(|error| error.message)?;
    Ok(())
}
