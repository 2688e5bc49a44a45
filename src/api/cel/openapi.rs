//! What the published schema of a kind means to the check of expressions
//! (k8s.io/apiserver/pkg/cel/openapi). Schemas may hold themselves, so fields are looked up when an
//! expression names them.

use std::fmt;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::convert::unescape;
use super::types::{Fields, Type};
use crate::api::resource::KindInfo;

/// How many references follow each other at most.
const MAX_REFERENCES: usize = 10;

/// The type of a kind's objects.
pub fn type_of(info: &KindInfo) -> Type {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let root = (info.schema)(&mut generator).to_value();
    let definitions = Arc::new(generator.take_definitions(true));
    of(&definitions, &root)
}

/// An object with the fields of a schema.
struct Node {
    definitions: Arc<Map<String, Value>>,
    name: String,
    properties: Map<String, Value>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Fields for Node {
    fn name(&self) -> &str {
        &self.name
    }

    fn field(&self, name: &str) -> Option<Type> {
        self.properties.get(&unescape(name)).map(|schema| of(&self.definitions, schema))
    }
}

/// What says nothing of its type may be anything.
fn of(definitions: &Arc<Map<String, Value>>, schema: &Value) -> Type {
    let mut schema = schema;
    let mut name = "object";
    for _ in 0..MAX_REFERENCES {
        let all = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice);
        let reference = match (schema.get("$ref"), all) {
            (Some(reference), _) => reference.as_str(),
            (None, Some([only])) => only.get("$ref").and_then(Value::as_str),
            _ => None,
        };
        let Some(reference) = reference else { break };
        name = reference.rsplit('/').next().unwrap_or_default();
        match definitions.get(name) {
            Some(found) => schema = found,
            None => return Type::Dyn,
        }
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return Type::Dyn;
    }
    let text = |field: &str| schema.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("format")) {
        ("array", _) => match schema.get("items") {
            Some(items) => Type::list(of(definitions, items)),
            None => Type::list(Type::Dyn),
        },
        ("object", _) => match (schema.get("properties"), schema.get("additionalProperties")) {
            (_, Some(values)) if values.is_object() => {
                Type::map(Type::String, of(definitions, values))
            }
            (Some(Value::Object(properties)), _) => Type::Object(Arc::new(Node {
                definitions: definitions.clone(),
                name: name.to_string(),
                properties: properties.clone(),
            })),
            _ => Type::Dyn,
        },
        ("string", "byte") => Type::Bytes,
        ("string", "date-time") => Type::Timestamp,
        ("string", "int-or-string") => Type::Dyn,
        ("string", _) => Type::String,
        ("integer", _) => Type::Int,
        ("number", _) => Type::Double,
        ("boolean", _) => Type::Bool,
        _ => Type::Dyn,
    }
}
