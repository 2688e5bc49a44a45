//! What a structural schema means to expressions: the types of the check, and the shapes by which
//! JSON becomes values (k8s.io/apiserver/pkg/cel/common/schemas.go).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::convert::escape;
use super::types::{Struct, Type};
use super::value::Identity;
use crate::api::custom::schema::{Additional, List, Schema};

/// How JSON becomes a value, and of which type.
#[derive(Clone, Debug)]
pub struct Shape {
    pub kind: ShapeKind,
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
            return Some(Shape::plain(ShapeKind::Dyn));
        }
        let kind = match (schema.type_name.as_str(), schema.checks.format.as_str()) {
            ("array", _) => {
                let item = schema.items.as_deref()?;
                let item = Shape::of(item, item.embedded)?;
                ShapeKind::List { item, identity: identity(&schema.list) }
            }
            ("object", _) => match &schema.additional {
                Additional::Of(values) => ShapeKind::Map(Shape::of(values, values.embedded)?),
                _ => Shape::object(schema, whole),
            },
            ("string", "byte") => ShapeKind::Bytes,
            ("string", "duration") => ShapeKind::Duration,
            ("string", "date" | "date-time") => ShapeKind::Timestamp,
            ("string", _) => ShapeKind::String,
            ("boolean", _) => ShapeKind::Bool,
            ("number", _) => ShapeKind::Double,
            ("integer", _) => ShapeKind::Int,
            _ => return None,
        };
        Some(Shape::plain(kind))
    }

    fn plain(kind: ShapeKind) -> Arc<Shape> {
        Arc::new(Shape { kind })
    }

    fn object(schema: &Schema, whole: bool) -> ShapeKind {
        let mut fields = BTreeMap::new();
        let mut add = |name: &str, shape: Arc<Shape>| {
            if let Some(escaped) = escape(name) {
                fields.insert(name.to_string(), (escaped, shape));
            }
        };
        for (name, field) in &schema.properties {
            if let Some(shape) = Shape::of(field, field.embedded) {
                add(name, shape);
            }
        }
        if whole {
            let text = || Shape::plain(ShapeKind::String);
            let mut names = BTreeMap::new();
            for name in ["name", "generateName"] {
                names.insert(name.to_string(), (name.into(), text()));
            }
            let metadata = ShapeKind::Object { name: "object".into(), fields: names };
            add("apiVersion", text());
            add("kind", text());
            add("metadata", Shape::plain(metadata));
        }
        ShapeKind::Object { name: "object".into(), fields }
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
