//! A deserializer over a JSON value that remembers where it is: it notes the fields that a type does
//! not know, and after a failure it still stands at the value that did not fit.
//!
//! It forwards scalars to serde_json's own deserializer of `&Value`. Nothing is allocated for the way
//! but the list of its steps: this is what most writes of the API are decoded by.

use std::cell::RefCell;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Map, Value};

use super::MAX_REPORTED_FIELDS;

/// The levels of most objects.
const USUAL_DEPTH: usize = 16;

/// Where a decoding is, and what it noted.
#[derive(Default)]
struct Trail<'v> {
    steps: Vec<Step<'v>>,
    unknown: Vec<String>,
}

#[derive(Clone, Copy)]
enum Step<'v> {
    Key(&'v str),
    Index(usize),
}

/// What a decoding could not do, and where.
pub(super) struct Failure<'v> {
    pub error: Error,
    steps: Vec<Step<'v>>,
}

/// A value, or an object without its value around it.
#[derive(Clone, Copy)]
pub(super) enum At<'v> {
    Value(&'v Value),
    Object(&'v Map<String, Value>),
}

/// Decodes a value, and lists the paths of fields that the type does not know.
pub(super) fn decode<T: DeserializeOwned>(at: At<'_>) -> Result<(T, Vec<String>), Failure<'_>> {
    let trail = Trail { steps: Vec::with_capacity(USUAL_DEPTH), unknown: Vec::new() };
    let trail = RefCell::new(trail);
    match T::deserialize(Tracked { at, trail: &trail }) {
        Ok(decoded) => Ok((decoded, trail.into_inner().unknown)),
        Err(error) => Err(Failure { error, steps: trail.into_inner().steps }),
    }
}

impl Failure<'_> {
    /// Such as `spec.containers[0].name`; empty at the root.
    pub fn path(&self) -> String {
        path_of(&self.steps)
    }

    /// The same as a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> String {
        let text = |step: &Step<'_>| match step {
            Step::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => format!("/{index}"),
        };
        self.steps.iter().map(text).collect()
    }
}

fn path_of(steps: &[Step<'_>]) -> String {
    let text = |step: &Step<'_>| match step {
        Step::Key(key) => format!(".{key}"),
        Step::Index(index) => format!("[{index}]"),
    };
    let path = steps.iter().map(text).collect::<String>();
    path.strip_prefix('.').unwrap_or(&path).to_owned()
}

#[derive(Clone, Copy)]
struct Tracked<'v, 't> {
    at: At<'v>,
    trail: &'t RefCell<Trail<'v>>,
}

impl<'v, 't> Tracked<'v, 't> {
    /// Goes one step down, and back up only after a success.
    fn step<S: DeserializeSeed<'v>>(
        trail: &'t RefCell<Trail<'v>>,
        step: Step<'v>,
        value: &'v Value,
        seed: S,
    ) -> Result<S::Value, Error> {
        trail.borrow_mut().steps.push(step);
        let value = seed.deserialize(Tracked { at: At::Value(value), trail })?;
        trail.borrow_mut().steps.pop();
        Ok(value)
    }
}

macro_rules! forward {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.at {
                At::Value(value) => value.$method(visitor),
                At::Object(_) => self.deserialize_any(visitor),
            }
        })*
    };
}

macro_rules! walk {
    ($($method:ident($($argument:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'v>>(
            self,
            $($argument: $type,)*
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.deserialize_any(visitor)
        })*
    };
}

impl<'v> Deserializer<'v> for Tracked<'v, '_> {
    type Error = Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier
    }

    walk! {
        deserialize_seq()
        deserialize_map()
        deserialize_tuple(_length: usize)
        deserialize_tuple_struct(_name: &'static str, _length: usize)
        deserialize_struct(_name: &'static str, _fields: &'static [&'static str])
        deserialize_unit_struct(_name: &'static str)
    }

    fn deserialize_any<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        let trail = self.trail;
        match self.at {
            At::Value(Value::Array(list)) => {
                visitor.visit_seq(Items { list: list.iter(), index: 0, trail })
            }
            At::Object(map) | At::Value(Value::Object(map)) => {
                visitor.visit_map(Entries { entries: map.iter(), value: None, trail })
            }
            At::Value(other) => other.deserialize_any(visitor),
        }
    }

    /// Of a field that the type does not know.
    fn deserialize_ignored_any<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut trail = self.trail.borrow_mut();
        if trail.unknown.len() < MAX_REPORTED_FIELDS {
            let path = path_of(&trail.steps);
            trail.unknown.push(path);
        }
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.at {
            At::Value(Value::Null) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'v>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'v>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.at {
            At::Value(value) => value.deserialize_enum(name, variants, visitor),
            At::Object(_) => self.deserialize_any(visitor),
        }
    }
}

struct Items<'v, 't> {
    list: std::slice::Iter<'v, Value>,
    index: usize,
    trail: &'t RefCell<Trail<'v>>,
}

impl<'v> SeqAccess<'v> for Items<'v, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'v>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.list.next() else { return Ok(None) };
        let step = Step::Index(self.index);
        self.index += 1;
        Tracked::step(self.trail, step, value, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len())
    }
}

struct Entries<'v, 't> {
    entries: serde_json::map::Iter<'v>,
    value: Option<(&'v String, &'v Value)>,
    trail: &'t RefCell<Trail<'v>>,
}

impl<'v> MapAccess<'v> for Entries<'v, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'v>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::<Error>::new(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'v>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((key, value)) = self.value.take() else {
            return Err(serde::de::Error::custom("a value was asked for before its key"));
        };
        Tracked::step(self.trail, Step::Key(key), value, seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}
