//! What Go's encoding/json makes of `null`: the zero value of what stands there. A field that is
//! `null` is as if it were not there, which typed decoding knows by itself; an element of a list or
//! a map is there, and is empty: `labels: {a: null}` is `labels: {a: ""}`.
//!
//! Runs only where a decoding failed at a `null`. Knows no kinds: it follows the type graph.

use serde_json::{Value, json};

use crate::api::typegraph::{Container, FieldType, Special, TypeGraph, TypeId, graph};

/// What Go reads as a time that is not set, as it does `null`.
const GO_ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Writes zero values for the elements of all lists and maps that are `null`; `false` if there is
/// none.
pub(super) fn fill(value: &mut Value, id: TypeId) -> bool {
    Filler { graph: graph(), filled: false }.object(value, id)
}

/// Writes [`GO_ZERO_TIME`] for the time that a decoding failed at, and for its like in the other
/// elements of the same lists, so that no body needs more rounds than its type has times. `false` if
/// it is something else.
pub(super) fn unset_times(value: &mut Value, pointer: &str) -> bool {
    let is_time = pointer.ends_with("Time") || pointer.ends_with("Timestamp");
    let steps: Vec<&str> = pointer.split('/').skip(1).collect();
    is_time && value.pointer(pointer).is_some_and(Value::is_null) && {
        unset(value, &steps);
        true
    }
}

fn unset(value: &mut Value, steps: &[&str]) {
    match (steps, value) {
        ([], time @ Value::Null) => *time = GO_ZERO_TIME.into(),
        ([_, rest @ ..], Value::Array(items)) => {
            items.iter_mut().for_each(|item| unset(item, rest));
        }
        ([key, rest @ ..], Value::Object(fields)) => {
            if let Some(found) = fields.get_mut(&key.replace("~1", "/").replace("~0", "~")) {
                unset(found, rest);
            }
        }
        _ => {}
    }
}

struct Filler {
    graph: &'static TypeGraph,
    filled: bool,
}

impl Filler {
    /// The depth is bounded by that of the body.
    fn object(&mut self, value: &mut Value, id: TypeId) -> bool {
        for (name, value) in value.as_object_mut().into_iter().flatten() {
            let Some(field) = self.graph.field_named(id, name) else { continue };
            match (field.container, value) {
                (Container::One, value) => self.inside(value, field.kind),
                (Container::List, Value::Array(items)) => {
                    items.iter_mut().for_each(|item| self.element(item, field.kind));
                }
                (Container::Map, Value::Object(entries)) => {
                    entries.values_mut().for_each(|entry| self.element(entry, field.kind));
                }
                _ => {}
            }
        }
        self.filled
    }

    fn element(&mut self, value: &mut Value, kind: FieldType) {
        if !value.is_null() {
            return self.inside(value, kind);
        }
        if let Some(zero) = zero(kind) {
            *value = zero;
            self.filled = true;
        }
    }

    fn inside(&mut self, value: &mut Value, kind: FieldType) {
        let is_schema = matches!(
            kind,
            FieldType::Special(
                Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStringArray
            )
        );
        match (kind, value) {
            (FieldType::Message(id), value) => {
                self.object(value, id);
            }
            (FieldType::Special(Special::StringList), Value::Array(items)) => {
                items.iter_mut().for_each(|item| self.element(item, FieldType::String));
            }
            (_, value) if is_schema => {
                let Some(id) = self.graph.named("apiextensions.v1.JSONSchemaProps") else { return };
                match value {
                    Value::Array(schemas) => schemas.iter_mut().for_each(|one| {
                        self.object(one, id);
                    }),
                    schema => {
                        self.object(schema, id);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The zero value of an element; `None` where `null` is a value of its own.
fn zero(kind: FieldType) -> Option<Value> {
    Some(match kind {
        FieldType::String | FieldType::Bytes => json!(""),
        FieldType::Int32 | FieldType::Int64 => json!(0),
        FieldType::Double => json!(0.0),
        FieldType::Bool => json!(false),
        FieldType::Message(id) => unset_message(id),
        FieldType::Special(special) => match special {
            Special::Time | Special::MicroTime => json!(GO_ZERO_TIME),
            Special::Quantity => json!("0"),
            Special::IntOrString => json!(0),
            Special::StringList => json!([]),
            // An empty schema, as near to Go's as our types can say.
            Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStringArray => {
                json!({})
            }
            Special::RawJson => return None,
        },
    })
}

/// A message without anything, with the times that its type may not be without: see [`unset_times`].
fn unset_message(id: TypeId) -> Value {
    let is_time =
        |kind: FieldType| matches!(kind, FieldType::Special(Special::Time | Special::MicroTime));
    let fields = graph().fields(id).iter().filter(|field| is_time(field.kind));
    fields.map(|field| (field.name.to_string(), Value::Null)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(kind: (&str, &str, &str), mut value: Value) -> Value {
        let id = graph().kind(kind.0, kind.1, kind.2).unwrap();
        fill(&mut value, id);
        value
    }

    #[test]
    fn elements_get_their_zero_values_and_fields_stay() {
        let pod = json!({"metadata": {"labels": {"a": null}, "annotations": null},
            "spec": {"nodeName": null, "containers": [null, {"name": null, "args": [null, "x"],
                "resources": {"limits": {"cpu": null}}}], "nodeSelector": {"k": null}}});
        assert_eq!(
            filled(("", "v1", "Pod"), pod),
            json!({"metadata": {"labels": {"a": ""}, "annotations": null},
                "spec": {"nodeName": null, "containers": [{}, {"name": null, "args": ["", "x"],
                    "resources": {"limits": {"cpu": "0"}}}], "nodeSelector": {"k": ""}}})
        );
        let secret = json!({"data": {"a": null}, "stringData": {"b": null}, "other": {"c": null}});
        let expected = json!({"data": {"a": ""}, "stringData": {"b": ""}, "other": {"c": null}});
        assert_eq!(filled(("", "v1", "Secret"), secret), expected);
    }

    /// An object with a null in every list and map, down to a depth.
    fn empty_elements(id: TypeId, depth: usize) -> Value {
        let mut object = json!({});
        for field in graph().fields(id) {
            let inside = match field.kind {
                FieldType::Message(inner) if depth > 0 => empty_elements(inner, depth - 1),
                _ => Value::Null,
            };
            match field.container {
                Container::One if field.inlined => {
                    let fields = inside.as_object().cloned().unwrap_or_default();
                    object.as_object_mut().unwrap().extend(fields);
                }
                Container::One => object[field.name] = inside,
                Container::List => object[field.name] = json!([null, inside]),
                Container::Map => object[field.name] = json!({"a": null, "b": inside}),
            }
        }
        object
    }

    #[test]
    fn every_kind_decodes_with_nulls_in_its_lists_and_maps() {
        use crate::api::registry::Registry;
        use crate::api::resource::Operation;
        let registry = Registry::builtin();
        let mut count = 0;
        for row in registry.rows() {
            let gvr = &row.gvr;
            let Some(id) = graph().kind(&gvr.group, &gvr.version, &row.kind) else { continue };
            let mut body = empty_elements(id, 7);
            body["apiVersion"] = json!(gvr.api_version());
            body["kind"] = json!(row.kind);
            let decoded = row.rules.decode(body, None, Operation::Create);
            let decoded = decoded.unwrap_or_else(|error| panic!("{gvr}: {}", error.message));
            assert_eq!(decoded.object.at(&["metadata", "labels", "a"]), Some(&json!("")), "{gvr}");
            // Whatever is wrong with it is told, and nothing panics.
            row.rules.validate(&decoded, Operation::Create);
            count += 1;
        }
        assert!(count > 60, "{count}");
    }

    #[test]
    fn json_that_is_free_keeps_its_nulls() {
        let schema = json!({"enum": [null, "a"], "default": {"x": null},
            "properties": {"a": null, "b": {"items": {"required": [null]}}}});
        let version = |schema: Value| {
            json!({"spec": {"versions": [{"schema":
            {"openAPIV3Schema": schema}}]}})
        };
        let expected = json!({"enum": [null, "a"], "default": {"x": null},
            "properties": {"a": {}, "b": {"items": {"required": [""]}}}});
        let kind = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        assert_eq!(filled(kind, version(schema)), version(expected));
    }

    #[test]
    fn times_are_unset_in_all_elements_at_once() {
        let mut value = json!({"status": {"a/b": [{"someTime": null}, {"someTime": 5}, {},
            {"someTime": null}]}});
        assert!(!unset_times(&mut value, "/status/a~1b/0"));
        assert!(!unset_times(&mut value, "/status/a~1b/1/someTime"));
        assert!(unset_times(&mut value, "/status/a~1b/0/someTime"));
        let times = json!([{"someTime": GO_ZERO_TIME}, {"someTime": 5}, {},
            {"someTime": GO_ZERO_TIME}]);
        assert_eq!(value["status"]["a/b"], times);
    }
}
