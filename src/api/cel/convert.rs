//! Between JSON and values, and between field names and names of the language.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map as JsonMap, Number, Value as Json};

use super::schema::{Shape, ShapeKind};
use super::value::{Key, List, Map, Value};

/// JSON without a schema: objects are maps.
pub fn untyped(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => self::number(number),
        Json::String(text) => Value::string(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(untyped).collect()),
        Json::Object(map) => Value::map(entries(map)),
    }
}

fn entries(map: &JsonMap<String, Json>) -> BTreeMap<Key, Value> {
    map.iter().map(|(key, value)| (Key::String(key.as_str().into()), untyped(value))).collect()
}

fn number(number: &Number) -> Value {
    match number.as_i64() {
        Some(whole) => Value::Int(whole),
        None => Value::Double(number.as_f64().unwrap_or_default()),
    }
}

/// JSON by the types of its schema: fields have the names that expressions use, and what no
/// expression can name is left out. What does not fit its type (which validation tells) is as it is.
pub fn typed(shape: &Shape, json: &Json) -> Value {
    match (&shape.kind, json) {
        (ShapeKind::Object { name, fields }, Json::Object(map)) => {
            let mut out = BTreeMap::new();
            for (field, value) in map {
                if let Some((escaped, shape)) = fields.get(field) {
                    out.insert(Key::String(escaped.clone()), typed(shape, value));
                }
            }
            Value::Map(Map::new(out, Some(name.clone())))
        }
        (ShapeKind::Map(values), Json::Object(map)) => {
            let pairs = map.iter();
            let pairs = pairs.map(|(key, v)| (Key::String(key.as_str().into()), typed(values, v)));
            Value::map(pairs.collect())
        }
        (ShapeKind::List { item, identity }, Json::Array(items)) => {
            let items = items.iter().map(|value| typed(item, value)).collect();
            Value::List(List::new(items, identity.clone()))
        }
        (ShapeKind::Double, Json::Number(number)) => {
            Value::Double(number.as_f64().unwrap_or_default())
        }
        (ShapeKind::Int, Json::Number(number)) => match number.as_f64() {
            // `1.0` is a whole number too.
            Some(n) if number.as_i64().is_none() && n.fract() == 0.0 && n.abs() < 9e18 => {
                Value::Int(n as i64)
            }
            _ => self::number(number),
        },
        (ShapeKind::Bytes, Json::String(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Value::Bytes(bytes.into()),
            Err(_) => untyped(json),
        },
        (ShapeKind::Timestamp, Json::String(text)) => {
            let day = || text.parse::<jiff::civil::Date>().ok();
            let midnight = || day()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp());
            let time = text.parse().ok().or_else(midnight);
            time.map_or_else(|| untyped(json), Value::Timestamp)
        }
        (ShapeKind::Duration, Json::String(text)) => {
            let parsed = super::lib::time::parse_duration(text);
            parsed.map_or_else(|_| untyped(json), Value::Duration)
        }
        _ => untyped(json),
    }
}

/// The largest JSON that is made of a value, about, in bytes: no larger request is taken. Values
/// share their parts, so that a short expression can stand for a JSON that fits no memory.
const MAX_JSON_BYTES: usize = 3 << 20;
/// What a part counts beside its text.
const PART_BYTES: usize = 8;

/// A value as JSON, for what is written into objects. Numbers that JSON has not, and what is too
/// large, are refused.
pub fn json(value: &Value) -> Result<Json, String> {
    json_within(value, &mut { MAX_JSON_BYTES })
}

fn json_within(value: &Value, left: &mut usize) -> Result<Json, String> {
    let text = match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    *left = left
        .checked_sub(text + PART_BYTES)
        .ok_or_else(|| format!("the value has more than {MAX_JSON_BYTES} bytes as JSON"))?;
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(n) => Json::from(*n),
        Value::Uint(n) => Json::from(*n),
        Value::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => Json::from(*n as i64),
        Value::Double(n) => Number::from_f64(*n)
            .map(Json::Number)
            .ok_or_else(|| format!("{n} is no JSON number"))?,
        Value::String(text) => Json::from(&**text),
        Value::Bytes(bytes) => Json::from(STANDARD.encode(bytes)),
        Value::Timestamp(time) => Json::from(super::lib::time::timestamp_text(*time)),
        Value::Duration(n) => Json::from(super::lib::time::duration_text(*n)),
        Value::List(list) => {
            let items = list.items().iter().map(|item| json_within(item, left));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            let is_object = map.object_type().is_some();
            let mut out = JsonMap::new();
            for (key, value) in map.entries() {
                let Key::String(key) = key else {
                    return Err(format!("{key:?} is no name of a field"));
                };
                *left = left.saturating_sub(key.len());
                let name = if is_object { unescape(key) } else { key.to_string() };
                out.insert(name, json_within(value, left)?);
            }
            Json::Object(out)
        }
        Value::Optional(None) => Json::Null,
        Value::Optional(Some(inner)) => json_within(inner, left)?,
        Value::Type(_) | Value::Opaque(_) => {
            return Err(format!("a value of type {} cannot be written", value.type_name()));
        }
    })
}

/// Names that are words of the language (k8s.io/apiserver/pkg/cel/escaping.go).
const WORDS: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const ESCAPES: &[(&str, &str)] =
    &[("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// A field's name as expressions write it; none for one that they cannot.
pub fn escape(name: &str) -> Option<Arc<str>> {
    if WORDS.contains(&name) {
        return Some(format!("__{name}__").into());
    }
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((plain, escaped)) = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            out.push_str(escaped);
            rest = &rest[plain.len()..];
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out.into())
}

/// The name of a field that expressions write so.
pub fn unescape(name: &str) -> String {
    let word = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    if let Some(word) = word.filter(|word| WORDS.contains(word)) {
        return word.to_string();
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        match ESCAPES.iter().find(|(_, escaped)| rest.starts_with(escaped)) {
            Some((plain, escaped)) => {
                out.push_str(plain);
                rest = &rest[escaped.len()..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}
