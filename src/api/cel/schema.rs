//! What a structural schema means to expressions: the types of the check, and the shapes by which
//! JSON becomes values (k8s.io/apiserver/pkg/cel/common/schemas.go).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::convert::escape;
use super::types::{Struct, Type};
use super::value::Identity;
use crate::api::custom::schema::{Additional, Checks, List, Schema};

/// The largest request that costs are estimated for, in bytes
/// (k8s.io/apiserver/pkg/cel/limits.go, as the sizes below).
pub const MAX_REQUEST_BYTES: u64 = 3 << 20;
const MAX_DURATION_BYTES: u64 = 32;
const MAX_TIME_BYTES: u64 = 37;
const DATE_BYTES: u64 = 12;

/// How JSON becomes a value, and of which type.
#[derive(Clone, Debug)]
pub struct Shape {
    pub kind: ShapeKind,
    /// Most elements, entries or bytes that it has, as far as the schema and the size of a request
    /// bound it; 0 where nothing is counted.
    pub most: u64,
    /// Bytes of the shortest JSON that it has.
    pub least_bytes: u64,
}

#[derive(Clone, Debug)]
pub enum ShapeKind {
    Dyn,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List {
        item: Arc<Shape>,
        identity: Identity,
    },
    Map(Arc<Shape>),
    Object {
        name: Arc<str>,
        /// By the JSON's names; with the names that expressions use.
        fields: BTreeMap<String, (Arc<str>, Arc<Shape>)>,
    },
}

impl Shape {
    /// None where the schema says too little to be seen: expressions do not know the field then.
    /// Whole objects have their type and their name, whether their schema says so or not.
    pub fn of(schema: &Schema, whole: bool) -> Option<Arc<Shape>> {
        if schema.int_or_string {
            let most = schema.checks.max_length.map_or(MAX_REQUEST_BYTES - 2, utf8);
            return Some(Shape::sized(ShapeKind::Dyn, most, 1));
        }
        let checks = &schema.checks;
        let text = |kind, most| Some(Shape::sized(kind, most, 2));
        match (schema.type_name.as_str(), checks.format.as_str()) {
            ("array", _) => {
                let item = schema.items.as_deref()?;
                let item = Shape::of(item, item.embedded)?;
                let fit = (MAX_REQUEST_BYTES - 2) / (item.least_bytes + 1);
                let kind = ShapeKind::List { item, identity: identity(&schema.list) };
                text(kind, checks.max_items.unwrap_or(fit))
            }
            ("object", _) => match &schema.additional {
                Additional::Of(values) => {
                    let values = Shape::of(values, values.embedded)?;
                    // A key of two bytes, a colon and a comma beside the value.
                    let fit = (MAX_REQUEST_BYTES - 2) / (values.least_bytes + 6);
                    text(ShapeKind::Map(values), checks.max_properties.unwrap_or(fit))
                }
                _ => Some(Shape::object(schema, whole)),
            },
            ("string", "byte") => {
                text(ShapeKind::Bytes, checks.max_length.unwrap_or(MAX_REQUEST_BYTES - 2))
            }
            ("string", "duration") => {
                Some(Shape::sized(ShapeKind::Duration, MAX_DURATION_BYTES, 3))
            }
            ("string", "date") => Some(Shape::sized(ShapeKind::Timestamp, DATE_BYTES, DATE_BYTES)),
            ("string", "date-time") => Some(Shape::sized(ShapeKind::Timestamp, MAX_TIME_BYTES, 21)),
            ("string", _) => text(ShapeKind::String, longest(checks)),
            ("boolean", _) => Some(Shape::sized(ShapeKind::Bool, 0, 4)),
            ("number", _) => Some(Shape::sized(ShapeKind::Double, 0, 1)),
            ("integer", _) => Some(Shape::sized(ShapeKind::Int, 0, 1)),
            _ => None,
        }
    }

    fn sized(kind: ShapeKind, most: u64, least_bytes: u64) -> Arc<Shape> {
        Arc::new(Shape { kind, most, least_bytes })
    }

    fn object(schema: &Schema, whole: bool) -> Arc<Shape> {
        let mut fields = BTreeMap::new();
        let mut add = |name: &str, shape: Arc<Shape>| {
            if let Some(escaped) = escape(name) {
                fields.insert(name.to_string(), (escaped, shape));
            }
        };
        let mut least_bytes: u64 = 2;
        for (name, field) in &schema.properties {
            if let Some(shape) = Shape::of(field, field.embedded) {
                // What has a default need not be sent.
                if field.default.is_none() && schema.required.contains(name) {
                    least_bytes += name.len() as u64 + shape.least_bytes + 4;
                }
                add(name, shape);
            }
        }
        if whole {
            let text = || Shape::sized(ShapeKind::String, MAX_REQUEST_BYTES - 2, 2);
            let mut names = BTreeMap::new();
            for name in ["name", "generateName"] {
                names.insert(name.to_string(), (name.into(), text()));
            }
            let metadata = ShapeKind::Object { name: "object".into(), fields: names };
            add("apiVersion", text());
            add("kind", text());
            add("metadata", Shape::sized(metadata, 0, 2));
        }
        Shape::sized(ShapeKind::Object { name: "object".into(), fields }, 0, least_bytes)
    }

    /// The type that the check knows.
    pub fn check_type(&self) -> Type {
        match &self.kind {
            ShapeKind::Dyn => Type::Dyn,
            ShapeKind::Bool => Type::Bool,
            ShapeKind::Int => Type::Int,
            ShapeKind::Double => Type::Double,
            ShapeKind::String => Type::String,
            ShapeKind::Bytes => Type::Bytes,
            ShapeKind::Timestamp => Type::Timestamp,
            ShapeKind::Duration => Type::Duration,
            ShapeKind::List { item, .. } => Type::list(item.check_type()),
            ShapeKind::Map(values) => Type::map(Type::String, values.check_type()),
            ShapeKind::Object { name, fields } => {
                let fields = fields.values();
                let fields = fields.map(|(name, shape)| (name.to_string(), shape.check_type()));
                let fields = fields.collect();
                Type::Object(Arc::new(Struct { name: name.to_string(), fields }))
            }
        }
    }
}

fn identity(list: &List) -> Identity {
    match list {
        List::Atomic => Identity::Place,
        List::Set => Identity::Value,
        List::Map(keys) => Identity::Fields(keys.iter().filter_map(|key| escape(key)).collect()),
    }
}

/// Characters have up to four bytes.
fn utf8(characters: u64) -> u64 {
    characters.saturating_mul(4)
}

/// The longest text that the checks let pass, in bytes.
fn longest(checks: &Checks) -> u64 {
    if let Some(most) = checks.max_length {
        return utf8(most);
    }
    let values = checks.enumeration.iter().filter_map(|value| value.as_str());
    match checks.enumeration.is_empty() {
        true => MAX_REQUEST_BYTES - 2,
        false => values.map(|value| value.len() as u64).max().unwrap_or(0),
    }
}
