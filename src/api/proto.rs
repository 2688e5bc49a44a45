//! Decoder of Kubernetes protobuf request bodies into JSON values.
//!
//! Owns the envelope (`k8s\0` and `runtime.Unknown`) and the walk over a kind's message, driven by
//! the field table of `typegraph`. There is no encoder: every client that sends protobuf accepts
//! JSON answers. Knows no kinds but the few messages that JSON writes differently. Field numbers
//! that the table does not know are skipped, as protobuf demands.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::typegraph::{Container, Field, FieldType, Special, TypeId, Zero, graph};
use wire::{Payload, Reader};

mod special;
mod wire;

/// The four bytes that every body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// Largest body that is decoded, in bytes; the same as the limit of request bodies.
pub const MAX_BODY_BYTES: usize = 3 << 20;
/// Deepest nesting of messages.
pub const MAX_DEPTH: usize = 100;
/// Most JSON values that one body may become: the wire form of an empty message is two bytes, the
/// value it becomes is much larger.
pub const MAX_VALUES: usize = 500_000;

/// Why a body cannot be decoded; answered with 400, `TooLarge` with 413.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("the body does not begin with the Kubernetes protobuf prefix")]
    Magic,
    #[error("the protobuf body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("the protobuf body holds more than {MAX_VALUES} values")]
    TooManyValues,
    #[error("the protobuf body is nested deeper than {MAX_DEPTH} messages")]
    TooDeep,
    #[error("the protobuf body is truncated")]
    Truncated,
    #[error("the protobuf body is malformed: {0}")]
    Wire(&'static str),
    #[error("the protobuf body has a wrong wire type in field {0}")]
    WireType(&'static str),
    #[error("field {0} is not valid UTF-8")]
    Utf8(&'static str),
    #[error("field {field}: {why}")]
    Value { field: &'static str, why: String },
    #[error("the protobuf envelope names no apiVersion and kind")]
    NoKind,
    #[error("content encoding {0:?} inside the protobuf envelope is not supported")]
    Encoding(String),
    #[error("no kind {kind:?} is registered for version {api_version:?} in protobuf")]
    UnknownKind { api_version: String, kind: String },
}

/// Decodes one body. The result is the object as the client's JSON would have been, `apiVersion`
/// and `kind` taken from the envelope.
pub fn decode(body: &[u8]) -> Result<Value, ProtoError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(ProtoError::TooLarge);
    }
    let mut decoder = Decoder { values_left: MAX_VALUES };
    decoder.envelope(body, 0)
}

struct Decoder {
    values_left: usize,
}

/// `runtime.Unknown`, as far as a request body uses it.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    encoding: &'a str,
    content_type: &'a str,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Envelope<'a>, ProtoError> {
        let mut envelope = Envelope::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next_field()? {
            match number {
                1 => envelope.read_type(payload.bytes("typeMeta")?)?,
                2 => envelope.raw = payload.bytes("raw")?,
                3 => envelope.encoding = payload.text("contentEncoding")?,
                4 => envelope.content_type = payload.text("contentType")?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn read_type(&mut self, bytes: &'a [u8]) -> Result<(), ProtoError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next_field()? {
            match number {
                1 => self.api_version = payload.text("apiVersion")?,
                2 => self.kind = payload.text("kind")?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Decoder {
    fn envelope(&mut self, body: &[u8], depth: usize) -> Result<Value, ProtoError> {
        let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(ProtoError::Magic)?)?;
        if envelope.kind.is_empty() || envelope.api_version.is_empty() {
            return Err(ProtoError::NoKind);
        }
        for text in [envelope.encoding, envelope.content_type] {
            if !text.is_empty() && text != "application/vnd.kubernetes.protobuf" {
                return Err(ProtoError::Encoding(text.to_owned()));
            }
        }
        let (group, version) =
            envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
        let id =
            graph().kind(group, version, envelope.kind).ok_or_else(|| ProtoError::UnknownKind {
                api_version: envelope.api_version.to_owned(),
                kind: envelope.kind.to_owned(),
            })?;
        let mut object = self.message(id, envelope.raw, depth + 1)?;
        object.insert("apiVersion".to_owned(), envelope.api_version.into());
        object.insert("kind".to_owned(), envelope.kind.into());
        Ok(Value::Object(object))
    }

    fn count_value(&mut self) -> Result<(), ProtoError> {
        self.values_left = self.values_left.checked_sub(1).ok_or(ProtoError::TooManyValues)?;
        Ok(())
    }

    fn message(
        &mut self,
        id: TypeId,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Map<String, Value>, ProtoError> {
        if depth > MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        let mut object = Map::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next_field()? {
            if let Some(field) = graph().field_numbered(id, number) {
                self.field(field, payload, &mut object, depth)?;
            }
        }
        Ok(object)
    }

    fn field(
        &mut self,
        field: &Field,
        payload: Payload<'_>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtoError> {
        self.count_value()?;
        match (field.container, field.kind) {
            (Container::One, FieldType::Message(inner)) if field.inlined => {
                object.append(&mut self.message(inner, payload.bytes(field.name)?, depth + 1)?);
            }
            (Container::One, _) => {
                let value = self.value(field, payload, depth)?;
                let absent = value.is_null() || (field.zero == Zero::Absent && is_zero(&value));
                if absent {
                    object.remove(field.name);
                } else {
                    object.insert(field.name.to_owned(), value);
                }
            }
            (Container::List, _) => {
                let entry = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = entry {
                    self.list_items(field, payload, list, depth)?;
                }
            }
            (Container::Map, _) => {
                let (key, value) = self.map_entry(field, payload.bytes(field.name)?, depth)?;
                let entry = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = entry {
                    map.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// One element, or a packed run of numbers.
    fn list_items(
        &mut self,
        field: &Field,
        payload: Payload<'_>,
        list: &mut Vec<Value>,
        depth: usize,
    ) -> Result<(), ProtoError> {
        let number = matches!(field.kind, FieldType::Int32 | FieldType::Int64 | FieldType::Bool);
        match payload {
            Payload::Bytes(packed) if number => {
                let mut reader = Reader::new(packed);
                while !reader.is_empty() {
                    self.count_value()?;
                    let item = Payload::Varint(reader.varint()?);
                    list.push(self.value(field, item, depth)?);
                }
            }
            single => list.push(self.value(field, single, depth)?),
        }
        Ok(())
    }

    fn map_entry(
        &mut self,
        field: &Field,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(String, Value), ProtoError> {
        let mut key = String::new();
        let mut value = None;
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next_field()? {
            match number {
                1 => key = payload.text(field.name)?.to_owned(),
                2 => value = Some(self.value(field, payload, depth)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => self.value(field, Payload::empty_of(field.kind), depth)?,
        };
        Ok((key, value))
    }

    /// One value of the field's element type; null where the wire form means absent.
    fn value(
        &mut self,
        field: &Field,
        payload: Payload<'_>,
        depth: usize,
    ) -> Result<Value, ProtoError> {
        let name = field.name;
        Ok(match field.kind {
            FieldType::String => payload.text(name)?.into(),
            FieldType::Bytes => BASE64.encode(payload.bytes(name)?).into(),
            // Negative numbers are sign-extended to 64 bits on the wire.
            FieldType::Int32 => (payload.varint(name)? as i32).into(),
            FieldType::Int64 => (payload.varint(name)? as i64).into(),
            FieldType::Bool => (payload.varint(name)? != 0).into(),
            // JSON has no NaN or infinity; serde_json makes them null, which means absent here.
            FieldType::Double => payload.double(name)?.into(),
            FieldType::Message(inner) => {
                Value::Object(self.message(inner, payload.bytes(name)?, depth + 1)?)
            }
            FieldType::Special(special) => {
                self.special(special, name, payload.bytes(name)?, depth + 1)?
            }
        })
    }

    fn special(
        &mut self,
        special: Special,
        name: &'static str,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, ProtoError> {
        if depth > MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        match special {
            Special::Time => special::time(name, bytes, false),
            Special::MicroTime => special::time(name, bytes, true),
            Special::Quantity => special::quantity(name, bytes),
            Special::IntOrString => special::int_or_string(name, bytes),
            Special::StringList => {
                let items = special::strings(name, bytes, self.values_left)?;
                self.values_left -= items.len();
                Ok(Value::Array(items))
            }
            Special::RawJson => self.raw_json(name, bytes, depth),
            Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStringArray => {
                self.schema_or(special, name, bytes, depth)
            }
        }
    }

    /// A document inside the message: JSON, or another protobuf envelope.
    fn raw_json(
        &mut self,
        name: &'static str,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, ProtoError> {
        let raw = special::last_bytes(name, bytes, 1)?;
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        if raw.starts_with(MAGIC) {
            return self.envelope(raw, depth);
        }
        serde_json::from_slice(raw)
            .map_err(|error| ProtoError::Value { field: name, why: error.to_string() })
    }

    /// The unions of JSON schema: field 1 is a schema (or a bool), field 2 the alternative.
    fn schema_or(
        &mut self,
        special: Special,
        name: &'static str,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, ProtoError> {
        let schema = graph().named("apiextensions.v1.JSONSchemaProps").ok_or(ProtoError::NoKind)?;
        let mut single = Value::Null;
        let mut allows = false;
        let mut list = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next_field()? {
            self.count_value()?;
            match (special, number) {
                (Special::SchemaOrBool, 1) => allows = payload.varint(name)? != 0,
                (Special::SchemaOrBool, 2) | (_, 1) => {
                    single = Value::Object(self.message(schema, payload.bytes(name)?, depth)?);
                }
                (Special::SchemaOrArray, 2) => {
                    let item = self.message(schema, payload.bytes(name)?, depth)?;
                    list.push(Value::Object(item));
                }
                (Special::SchemaOrStringArray, 2) => list.push(payload.text(name)?.into()),
                _ => {}
            }
        }
        Ok(match special {
            Special::SchemaOrBool if single.is_null() => Value::Bool(allows),
            _ if !list.is_empty() => Value::Array(list),
            _ => single,
        })
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        // A message on the wire says that its field is set, as in `emptyDir: {}`.
        Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
