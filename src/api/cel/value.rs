//! Values: typed, immutable, cheap to clone.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::cost::Meter;
use super::eval::Error;

/// How deep values may nest; comparing and dropping them recurses. JSON of clients has at most 128
/// levels, and an expression adds some.
pub const MAX_DEPTH: u16 = 300;

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(List),
    Map(Map),
    /// A type's name.
    Type(Arc<str>),
    Optional(Option<Arc<Value>>),
    Opaque(Arc<dyn Opaque>),
}

/// A value of a library.
pub trait Opaque: fmt::Debug + Send + Sync {
    fn type_name(&self) -> &'static str;

    fn equals(&self, other: &dyn Opaque) -> bool;

    fn as_any(&self) -> &dyn Any;
}

#[derive(Clone, Debug)]
pub struct List {
    items: Arc<Vec<Value>>,
    identity: Identity,
    depth: u16,
}

/// How a list's elements are told apart (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default)]
pub enum Identity {
    /// By their place.
    #[default]
    Place,
    /// By their value: order does not matter.
    Value,
    /// By these fields: order does not matter.
    Fields(Arc<[Arc<str>]>),
}

#[derive(Clone, Debug)]
pub struct Map {
    entries: Arc<BTreeMap<Key, Value>>,
    /// Of an object with fields rather than a map.
    type_name: Option<Arc<str>>,
    depth: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    /// Beyond what an int holds.
    Uint(u64),
    String(Arc<str>),
}

impl Value {
    pub fn string(text: impl Into<Arc<str>>) -> Value {
        Value::String(text.into())
    }

    pub fn list(items: Vec<Value>) -> Value {
        Value::List(List::new(items, Identity::Place))
    }

    pub fn strings(texts: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Value {
        Value::list(texts.into_iter().map(|text| Value::String(text.into())).collect())
    }

    pub fn map(entries: BTreeMap<Key, Value>) -> Value {
        Value::Map(Map::new(entries, None))
    }

    pub fn some(value: Value) -> Value {
        Value::Optional(Some(Arc::new(value)))
    }

    pub const NONE: Value = Value::Optional(None);

    pub fn opaque(value: impl Opaque + 'static) -> Value {
        Value::Opaque(Arc::new(value))
    }

    /// A library's value, if it is of that type.
    pub fn is<T: 'static>(&self) -> Option<&T> {
        match self {
            Value::Opaque(value) => value.as_any().downcast_ref(),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn depth(&self) -> u16 {
        match self {
            Value::List(list) => list.depth,
            Value::Map(map) => map.depth,
            Value::Optional(Some(inner)) => inner.depth().saturating_add(1),
            _ => 0,
        }
    }

    /// The name that `type()` gives.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(map) => map.type_name.as_deref().unwrap_or("map"),
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Opaque(value) => value.type_name(),
        }
    }

    /// What functions whose cost grows with their argument count: bytes, elements, entries.
    pub fn size(&self) -> u64 {
        let size = match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.items.len(),
            Value::Map(map) => map.entries.len(),
            Value::Optional(Some(inner)) => return inner.size(),
            _ => 1,
        };
        size as u64
    }

    /// Whether two values are equal; numbers are compared by amount, whatever their type. Costs for
    /// each part that is looked at.
    pub fn equals(&self, other: &Value, meter: &mut Meter) -> Result<bool, Error> {
        meter.charge(1)?;
        Ok(match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => {
                meter.traverse(a.len().min(b.len()).saturating_sub(10))?;
                a == b
            }
            (Value::Bytes(a), Value::Bytes(b)) => {
                meter.traverse(a.len().min(b.len()).saturating_sub(10))?;
                a == b
            }
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::List(a), Value::List(b)) => a.equals(b, meter)?,
            (Value::Map(a), Value::Map(b)) => a.equals(b, meter)?,
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b, meter)?,
                (a, b) => a.is_none() && b.is_none(),
            },
            (Value::Opaque(a), Value::Opaque(b)) => a.equals(&**b),
            (a, b) => numbers(a, b) == Some(Ordering::Equal),
        })
    }

    /// The order of two values, where they have one.
    pub fn order(&self, other: &Value, meter: &mut Meter) -> Result<Option<Ordering>, Error> {
        Ok(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => {
                meter.traverse(a.len().min(b.len()))?;
                Some(a.cmp(b))
            }
            (Value::Bytes(a), Value::Bytes(b)) => {
                meter.traverse(a.len().min(b.len()))?;
                Some(a.cmp(b))
            }
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (a, b) => numbers(a, b),
        })
    }
}

/// The order of two numbers; none for NaN, and for what is no number.
fn numbers(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => double_with(*a, whole(b)?),
        (a, Value::Double(b)) => double_with(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(n) => Some(i128::from(*n)),
        Value::Uint(n) => Some(i128::from(*n)),
        _ => None,
    }
}

/// A double beside a whole number, exactly: whole numbers have more digits than a double.
fn double_with(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    // Beyond the range the cast stays at its ends, which are beyond every int and uint.
    let floor = a.floor() as i128;
    Some(floor.cmp(&b).then(if a > a.floor() { Ordering::Greater } else { Ordering::Equal }))
}

fn depth_above<'a>(parts: impl IntoIterator<Item = &'a Value>) -> u16 {
    parts.into_iter().map(Value::depth).max().unwrap_or(0).saturating_add(1)
}

impl List {
    pub fn new(items: Vec<Value>, identity: Identity) -> List {
        let depth = depth_above(&items);
        List { items: Arc::new(items), identity, depth }
    }

    pub fn items(&self) -> &[Value] {
        &self.items
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn equals(&self, other: &List, meter: &mut Meter) -> Result<bool, Error> {
        if self.items.len() != other.items.len() {
            return Ok(false);
        }
        if matches!(self.identity, Identity::Place) {
            for (a, b) in self.items.iter().zip(other.items.iter()) {
                if !a.equals(b, meter)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        for item in self.items.iter() {
            if !other.contains(item, meter)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn contains(&self, wanted: &Value, meter: &mut Meter) -> Result<bool, Error> {
        for item in self.items.iter() {
            if item.equals(wanted, meter)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `self + other`: lists whose elements have an identity become one that holds each once, with
    /// the second list's where both have it.
    pub fn plus(&self, other: &List, meter: &mut Meter) -> Result<List, Error> {
        let together = self.items.len() + other.items.len();
        meter.charge(together as u64)?;
        let mut items = Vec::with_capacity(together);
        items.extend(self.items.iter().cloned());
        for item in other.items.iter() {
            let same = match self.identity {
                Identity::Place => None,
                _ => self.find_same(item, meter)?,
            };
            match same {
                Some(index) => items[index] = item.clone(),
                None => items.push(item.clone()),
            }
        }
        Ok(List::new(items, self.identity.clone()))
    }

    fn find_same(&self, wanted: &Value, meter: &mut Meter) -> Result<Option<usize>, Error> {
        for (index, item) in self.items.iter().enumerate() {
            if self.identity.same(item, wanted, meter)? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

impl Identity {
    /// Whether two elements are the same one.
    pub fn same(&self, a: &Value, b: &Value, meter: &mut Meter) -> Result<bool, Error> {
        let Identity::Fields(fields) = self else { return a.equals(b, meter) };
        let (Value::Map(a), Value::Map(b)) = (a, b) else { return Ok(false) };
        for field in fields.iter() {
            let same = match (a.field(field), b.field(field)) {
                (Some(a), Some(b)) => a.equals(b, meter)?,
                (a, b) => a.is_none() && b.is_none(),
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Map {
    pub fn new(entries: BTreeMap<Key, Value>, type_name: Option<Arc<str>>) -> Map {
        let depth = depth_above(entries.values());
        Map { entries: Arc::new(entries), type_name, depth }
    }

    pub fn entries(&self) -> &BTreeMap<Key, Value> {
        &self.entries
    }

    pub fn object_type(&self) -> Option<&str> {
        self.type_name.as_deref()
    }

    pub fn field(&self, name: &Arc<str>) -> Option<&Value> {
        self.entries.get(&Key::String(name.clone()))
    }

    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.get(&Key::of(key)?)
    }

    fn equals(&self, other: &Map, meter: &mut Meter) -> Result<bool, Error> {
        if self.entries.len() != other.entries.len() || self.type_name != other.type_name {
            return Ok(false);
        }
        for ((a_key, a), (b_key, b)) in self.entries.iter().zip(other.entries.iter()) {
            if a_key != b_key || !a.equals(b, meter)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Key {
    /// Numbers that are equal are the same key, whatever their type.
    pub fn of(value: &Value) -> Option<Key> {
        Some(match value {
            Value::Bool(key) => Key::Bool(*key),
            Value::Int(key) => Key::Int(*key),
            Value::Uint(key) => i64::try_from(*key).map_or(Key::Uint(*key), Key::Int),
            Value::Double(key) if key.fract() == 0.0 && key.abs() < 9e15 => Key::Int(*key as i64),
            Value::String(key) => Key::String(key.clone()),
            _ => return None,
        })
    }

    pub fn value(&self) -> Value {
        match self {
            Key::Bool(key) => Value::Bool(*key),
            Key::Int(key) => Value::Int(*key),
            Key::Uint(key) => Value::Uint(*key),
            Key::String(key) => Value::String(key.clone()),
        }
    }
}
