//! A deserializer over a JSON value that remembers where it is, for error messages only.
//!
//! It forwards everything to serde_json's own deserializer of `&Value` and keeps the path of keys
//! and indexes; after a failure the path still leads to the value that did not fit.

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Value};

type Trail = RefCell<Vec<Step>>;

enum Step {
    Key(String),
    Index(usize),
}

/// Runs a decoding that is known to fail, and returns the path where it did.
pub(super) fn failing_path<'v, T>(
    decode: impl FnOnce(Tracked<'v, '_>) -> Result<T, Error>,
    value: &'v Value,
) -> Option<String> {
    let text = |step: Step| match step {
        Step::Key(key) => format!(".{key}"),
        Step::Index(index) => format!("[{index}]"),
    };
    let path = failing_trail(decode, value)?.into_iter().map(text).collect::<String>();
    Some(path.strip_prefix('.').unwrap_or(&path).to_owned())
}

/// The same as a JSON pointer (RFC 6901).
pub(super) fn failing_pointer<'v, T>(
    decode: impl FnOnce(Tracked<'v, '_>) -> Result<T, Error>,
    value: &'v Value,
) -> Option<String> {
    let text = |step: Step| match step {
        Step::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Step::Index(index) => format!("/{index}"),
    };
    Some(failing_trail(decode, value)?.into_iter().map(text).collect())
}

fn failing_trail<'v, T>(
    decode: impl FnOnce(Tracked<'v, '_>) -> Result<T, Error>,
    value: &'v Value,
) -> Option<Vec<Step>> {
    let trail = Trail::default();
    let failed = decode(Tracked { value, trail: &trail }).is_err();
    failed.then(|| trail.into_inner())
}

#[derive(Clone, Copy)]
pub(super) struct Tracked<'v, 't> {
    value: &'v Value,
    trail: &'t Trail,
}

impl<'v, 't> Tracked<'v, 't> {
    /// Goes one step down, and back up only after a success.
    fn step<S: DeserializeSeed<'v>>(self, step: Step, seed: S) -> Result<S::Value, Error> {
        self.trail.borrow_mut().push(step);
        let value = seed.deserialize(self)?;
        self.trail.borrow_mut().pop();
        Ok(value)
    }
}

macro_rules! forward {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
            self.value.$method(visitor)
        })*
    };
}

impl<'v> Deserializer<'v> for Tracked<'v, '_> {
    type Error = Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(list) => {
                visitor.visit_seq(Items { list: list.iter(), index: 0, at: self })
            }
            Value::Object(map) => {
                visitor.visit_map(Entries { entries: map.iter(), value: None, at: self })
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
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

    fn deserialize_unit_struct<V: Visitor<'v>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_seq<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'v>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'v>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'v>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'v>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }
}

struct Items<'v, 't> {
    list: std::slice::Iter<'v, Value>,
    index: usize,
    at: Tracked<'v, 't>,
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
        Tracked { value, trail: self.at.trail }.step(step, seed).map(Some)
    }
}

struct Entries<'v, 't> {
    entries: serde_json::map::Iter<'v>,
    value: Option<(&'v String, &'v Value)>,
    at: Tracked<'v, 't>,
}

impl<'v> MapAccess<'v> for Entries<'v, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'v>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let key: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'v>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((key, value)) = self.value.take() else {
            return Err(serde::de::Error::custom("a value was asked for before its key"));
        };
        Tracked { value, trail: self.at.trail }.step(Step::Key(key.clone()), seed)
    }
}
