//! Fields and elements of values. On an optional, each step gives an optional again.

use std::sync::Arc;

use super::eval::{Error, no_overload};
use super::value::{Key, Value};

/// `value.field`, or `value.?field`.
pub fn select(value: &Value, field: &Arc<str>, optional: bool) -> Result<Value, Error> {
    match value {
        Value::Optional(None) => Ok(Value::NONE),
        Value::Optional(Some(inner)) => select(inner, field, true),
        Value::Map(map) => match map.field(field) {
            Some(found) if optional => Ok(Value::some(found.clone())),
            Some(found) => Ok(found.clone()),
            None if optional => Ok(Value::NONE),
            None => Err(no_key(field)),
        },
        _ => Err(no_overload()),
    }
}

/// `has(value.field)`.
pub fn has(value: &Value, field: &Arc<str>) -> Result<bool, Error> {
    match value {
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        Value::Map(map) => Ok(map.field(field).is_some()),
        _ => Err(no_overload()),
    }
}

/// `value[index]`, or `value[?index]`.
pub fn index(value: &Value, index: &Value, optional: bool) -> Result<Value, Error> {
    let found = match value {
        Value::Optional(None) => return Ok(Value::NONE),
        Value::Optional(Some(inner)) => return self::index(inner, index, true),
        Value::Map(map) => map.get(index).ok_or_else(|| no_key(&shown(index))),
        Value::List(list) => match Key::of(index) {
            Some(Key::Int(at)) => {
                let found = usize::try_from(at).ok().and_then(|at| list.items().get(at));
                found.ok_or_else(|| Error::new(format!("index out of bounds: {at}")))
            }
            Some(Key::Uint(at)) => Err(Error::new(format!("index out of bounds: {at}"))),
            _ => return Err(no_overload()),
        },
        _ => return Err(no_overload()),
    };
    match found {
        Ok(found) if optional => Ok(Value::some(found.clone())),
        Ok(found) => Ok(found.clone()),
        Err(_) if optional => Ok(Value::NONE),
        Err(error) => Err(error),
    }
}

fn no_key(key: &str) -> Error {
    Error::new(format!("no such key: {}", key.chars().take(100).collect::<String>()))
}

fn shown(value: &Value) -> String {
    match Key::of(value) {
        Some(Key::String(key)) => key.to_string(),
        Some(Key::Int(key)) => key.to_string(),
        Some(Key::Uint(key)) => key.to_string(),
        Some(Key::Bool(key)) => key.to_string(),
        None => value.type_name().to_string(),
    }
}
