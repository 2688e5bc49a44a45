//! How values merge: what is one value, what is a container, and how elements of a list are told
//! apart. From the table of built-in types, from the schema of a custom resource, or, where
//! neither says anything, from the value itself: objects are containers, lists are one value.

use serde_json::{Map, Value};

use super::set::Step;
use crate::api::typegraph::{Container, FieldType, MergeRule, TypeId, graph};

/// What is known of one value.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    Builtin {
        container: Container,
        kind: FieldType,
        rule: MergeRule,
        /// Always there to Go, though JSON may leave it out.
        stays: bool,
    },
    /// An OpenAPI schema with Kubernetes' extensions.
    Schema(&'a Value),
    /// The schema of a whole custom resource, whose metadata is known.
    Resource(&'a Value),
    Deduced,
}

/// How a value is to be walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Replaced as a whole.
    Leaf,
    Object,
    /// A list of distinct scalars.
    Set,
    /// A list whose elements are told apart by these fields.
    Keyed(Vec<String>),
}

impl Shape<'_> {
    /// The shape of a kind of a built-in group; `Deduced` where it is not known.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Shape<'static> {
        match graph().kind(group, version, kind) {
            Some(id) => Shape::message(id),
            None => Shape::Deduced,
        }
    }

    fn message(id: TypeId) -> Shape<'static> {
        let rule = MergeRule::default();
        let kind = FieldType::Message(id);
        Shape::Builtin { container: Container::One, kind, rule, stays: true }
    }
}

impl<'a> Shape<'a> {
    /// Whether a field's being there says nothing.
    pub fn is_always_there(&self) -> bool {
        matches!(self, Shape::Builtin { stays: true, .. })
    }

    pub fn form(&self) -> Form {
        match self {
            Shape::Deduced => Form::Object,
            Shape::Resource(_) => Form::Object,
            Shape::Builtin { container: Container::List, rule, .. } => list_form(
                rule.list_type,
                rule.list_map_keys.split(',').map(str::to_string).collect(),
            ),
            Shape::Builtin { rule, .. } if rule.map_type == "atomic" => Form::Leaf,
            Shape::Builtin { container: Container::Map, .. } => Form::Object,
            Shape::Builtin { container: Container::One, kind, .. } => match kind {
                FieldType::Message(id) => {
                    let of_type = graph().merge_rule(graph().name(*id), "");
                    let atomic = of_type.is_some_and(|rule| rule.map_type == "atomic");
                    if atomic { Form::Leaf } else { Form::Object }
                }
                _ => Form::Leaf,
            },
            Shape::Schema(schema) => schema_form(schema),
        }
    }

    /// The shape of a field, and whether the type declares it (else it is a key of a map).
    pub fn field(&self, name: &str) -> (Shape<'a>, bool) {
        match self {
            Shape::Deduced => (Shape::Deduced, false),
            Shape::Builtin { container: Container::Map, kind, .. } => {
                let (container, rule) = (Container::One, MergeRule::default());
                (Shape::Builtin { container, kind: *kind, rule, stays: false }, false)
            }
            Shape::Builtin { kind: FieldType::Message(id), .. } => {
                let Some(field) = graph().field_named(*id, name) else {
                    return (Shape::Deduced, false);
                };
                let rule = graph().merge_rule(graph().name(*id), name).copied().unwrap_or_default();
                let (container, kind, stays) = (field.container, field.kind, field.stays);
                (Shape::Builtin { container, kind, rule, stays }, true)
            }
            Shape::Builtin { .. } => (Shape::Deduced, false),
            Shape::Resource(_) if name == "metadata" => match graph().named("meta.v1.ObjectMeta") {
                Some(id) => (Shape::message(id), true),
                None => (Shape::Deduced, true),
            },
            Shape::Resource(schema) | Shape::Schema(schema) => {
                if let Some(field) = schema.get("properties").and_then(|all| all.get(name)) {
                    return (Shape::Schema(field), true);
                }
                match schema.get("additionalProperties") {
                    Some(values @ Value::Object(_)) => (Shape::Schema(values), false),
                    _ => (Shape::Deduced, false),
                }
            }
        }
    }

    /// The shape of a list's elements.
    pub fn element(&self) -> Shape<'a> {
        match self {
            Shape::Builtin { kind, .. } => {
                let (container, rule) = (Container::One, MergeRule::default());
                Shape::Builtin { container, kind: *kind, rule, stays: false }
            }
            Shape::Schema(schema) => schema.get("items").map_or(Shape::Deduced, Shape::Schema),
            Shape::Resource(_) | Shape::Deduced => Shape::Deduced,
        }
    }

    /// What tells an element of a keyed list apart from the others. A key that is left out has its
    /// default.
    ///
    /// # Errors
    /// The name of a key that has neither value nor default.
    pub fn step_of(&self, item: &Value, keys: &[String]) -> Result<Step, String> {
        let mut found = Map::new();
        for key in keys {
            let value = item.get(key).filter(|value| !value.is_null()).cloned();
            match value.or_else(|| self.default_of(key)) {
                Some(value) => {
                    found.insert(key.clone(), value);
                }
                None => return Err(key.clone()),
            }
        }
        Ok(Step::key(&found))
    }

    /// The default of a field of the list's elements.
    fn default_of(&self, key: &str) -> Option<Value> {
        match self {
            // The one key of built-in lists that has a default (core/v1 ContainerPort, ServicePort).
            Shape::Builtin { .. } if key == "protocol" => Some("TCP".into()),
            Shape::Schema(schema) => {
                schema.pointer(&format!("/items/properties/{key}/default")).cloned()
            }
            _ => None,
        }
    }
}

fn list_form(list_type: &str, keys: Vec<String>) -> Form {
    match list_type {
        "set" => Form::Set,
        "map" => Form::Keyed(keys),
        _ => Form::Leaf,
    }
}

fn schema_form(schema: &Value) -> Form {
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "array" => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_string);
            list_form(text("x-kubernetes-list-type"), keys.collect())
        }
        "object" | "" if text("x-kubernetes-map-type") != "atomic" => Form::Object,
        _ => Form::Leaf,
    }
}
