//! Types, as the check knows them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::value::Value;

#[derive(Clone, Debug)]
pub enum Type {
    /// Not known before it runs.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// Of types themselves.
    Type,
    /// Any of the three numbers; in signatures only.
    Number,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// With known fields.
    Object(Arc<dyn Fields>),
    /// A library's, by its name.
    Opaque(&'static str),
    /// A parameter of a signature.
    Param(char),
}

/// The fields of an object's type. Types may hold themselves, so fields are asked for one by one.
pub trait Fields: fmt::Debug + Send + Sync {
    fn name(&self) -> &str;

    fn field(&self, name: &str) -> Option<Type>;
}

/// Fields that are a table.
#[derive(Debug, Default)]
pub struct Struct {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

impl Fields for Struct {
    fn name(&self) -> &str {
        &self.name
    }

    fn field(&self, name: &str) -> Option<Type> {
        self.fields.get(name).cloned()
    }
}

impl Struct {
    pub fn of(name: &str, fields: &[(&str, Type)]) -> Type {
        let fields = fields.iter().map(|(name, t)| (name.to_string(), t.clone())).collect();
        Type::Object(Arc::new(Struct { name: name.into(), fields }))
    }
}

impl Type {
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    /// Whether a value of type `self` may stand where `wanted` is asked for. Parameters of a
    /// signature are bound on the way.
    pub fn fits(&self, wanted: &Type, bound: &mut Bound) -> bool {
        match (self, wanted) {
            (_, Type::Param(name)) => match bound.get(*name) {
                None => {
                    bound.set(*name, self.clone());
                    true
                }
                Some(Type::Null) => {
                    bound.set(*name, self.clone());
                    true
                }
                Some(known) => {
                    if self.is_dyn() {
                        bound.set(*name, Type::Dyn);
                    }
                    self.fits(&known, bound)
                }
            },
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            // A field that is not set may be null, whatever its type.
            (Type::Null, _) | (_, Type::Null) => true,
            (Type::Int | Type::Uint | Type::Double, Type::Number) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
                a.fits(b, bound)
            }
            (Type::Map(ak, av), Type::Map(bk, bv)) => ak.fits(bk, bound) && av.fits(bv, bound),
            (Type::Object(a), Type::Object(b)) => a.name() == b.name(),
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// The type of what is either of two; none if they have nothing in common.
    pub fn join(&self, other: &Type) -> Option<Type> {
        match (self, other) {
            (Type::Dyn, _) | (_, Type::Dyn) => Some(Type::Dyn),
            (Type::Null, other) | (other, Type::Null) => Some(other.clone()),
            (Type::List(a), Type::List(b)) => Some(Type::list(a.join(b)?)),
            (Type::Optional(a), Type::Optional(b)) => Some(Type::optional(a.join(b)?)),
            (Type::Map(ak, av), Type::Map(bk, bv)) => Some(Type::map(ak.join(bk)?, av.join(bv)?)),
            (a, b) => a.fits(b, &mut Bound::default()).then(|| a.clone()),
        }
    }

    /// With the parameters' values; what is not bound may be anything.
    pub fn resolve(&self, bound: &Bound) -> Type {
        match self {
            Type::Param(name) => bound.get(*name).unwrap_or(Type::Dyn),
            Type::List(item) => Type::list(item.resolve(bound)),
            Type::Optional(inner) => Type::optional(inner.resolve(bound)),
            Type::Map(key, value) => Type::map(key.resolve(bound), value.resolve(bound)),
            other => other.clone(),
        }
    }

    /// Whether a value is of the type, as far as its outermost layer tells.
    pub fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Type::Dyn | Type::Param(_), _) => true,
            (Type::Null, Value::Null)
            | (Type::Bool, Value::Bool(_))
            | (Type::Int | Type::Number, Value::Int(_))
            | (Type::Uint | Type::Number, Value::Uint(_))
            | (Type::Double | Type::Number, Value::Double(_))
            | (Type::String, Value::String(_))
            | (Type::Bytes, Value::Bytes(_))
            | (Type::Timestamp, Value::Timestamp(_))
            | (Type::Duration, Value::Duration(_))
            | (Type::Type, Value::Type(_))
            | (Type::List(_), Value::List(_))
            | (Type::Map(..) | Type::Object(_), Value::Map(_))
            | (Type::Optional(_), Value::Optional(_)) => true,
            (Type::Opaque(name), Value::Opaque(value)) => value.type_name() == *name,
            _ => false,
        }
    }
}

/// What the parameters of a signature stand for.
#[derive(Default)]
pub struct Bound(Vec<(char, Type)>);

impl Bound {
    fn get(&self, name: char) -> Option<Type> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, t)| t.clone())
    }

    fn set(&mut self, name: char, to: Type) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = to,
            None => self.0.push((name, to)),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::Type => f.write_str("type"),
            Type::Number => f.write_str("number"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Object(fields) => f.write_str(fields.name()),
            Type::Opaque(name) => f.write_str(name),
            Type::Param(name) => write!(f, "{name}"),
        }
    }
}
