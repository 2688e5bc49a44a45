//! Messages that JSON writes as one scalar: times, quantities, int-or-string, lists of strings.

use jiff::Timestamp;
use serde_json::Value;

use super::super::quantity::Quantity;
use super::ProtoError;
use super::wire::{Payload, Reader};

/// `Time{1 seconds, 2 nanos}`. An empty message is Go's zero time, which JSON writes as null.
pub(super) fn time(
    field: &'static str,
    bytes: &[u8],
    microseconds: bool,
) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next_field()? {
        match number {
            1 => seconds = payload.varint(field)? as i64,
            2 => nanos = payload.varint(field)? as i32,
            _ => {}
        }
    }
    // Plain times have whole seconds in JSON; Go ignores their nanoseconds too.
    let (nanos, format) = match microseconds {
        true => (nanos, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        false => (0, "%Y-%m-%dT%H:%M:%SZ"),
    };
    let bad = |error: jiff::Error| ProtoError::Value { field, why: error.to_string() };
    let time = Timestamp::new(seconds, nanos).map_err(bad)?;
    Ok(time.strftime(format).to_string().into())
}

/// `Quantity{1 string}`, in canonical form.
pub(super) fn quantity(field: &'static str, bytes: &[u8]) -> Result<Value, ProtoError> {
    let raw = last_bytes(field, bytes, 1)?;
    let text = std::str::from_utf8(raw).map_err(|_| ProtoError::Utf8(field))?;
    if text.is_empty() {
        return Ok("0".into());
    }
    match Quantity::parse(text) {
        Ok(quantity) => Ok(quantity.to_string().into()),
        Err(error) => Err(ProtoError::Value { field, why: error.to_string() }),
    }
}

/// `IntOrString{1 type: 0 int or 1 string, 2 intVal, 3 strVal}`.
pub(super) fn int_or_string(field: &'static str, bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut number, mut text) = (false, 0i32, "");
    let mut reader = Reader::new(bytes);
    while let Some((field_number, payload)) = reader.next_field()? {
        match field_number {
            1 => is_text = payload.varint(field)? == 1,
            2 => number = payload.varint(field)? as i32,
            3 => text = payload.text(field)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// Every string in field 1 of a message, at most `limit`.
pub(super) fn strings(
    field: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<Vec<Value>, ProtoError> {
    let mut items = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((found, payload)) = reader.next_field()? {
        if items.len() >= limit {
            return Err(ProtoError::TooManyValues);
        }
        if found == 1 {
            items.push(payload.text(field)?.into());
        }
    }
    Ok(items)
}

/// The last occurrence of a bytes field; empty if there is none.
pub(super) fn last_bytes<'a>(
    field: &'static str,
    bytes: &'a [u8],
    number: u32,
) -> Result<&'a [u8], ProtoError> {
    let mut last: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((found, payload)) = reader.next_field()? {
        if found == number {
            last = Payload::bytes(payload, field)?;
        }
    }
    Ok(last)
}
