//! Conversions, sizes, and types of values.

use super::time;
use crate::api::cel::cost::text;
use crate::api::cel::eval::Error;
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row("dyn(A) -> dyn", Cost::One, native!([a] => Ok(a.clone()))),
        row("type(A) -> type", Cost::One, native!([a] => Ok(Value::Type(a.type_name().into())))),
        row("bool(bool) -> bool", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "bool(string) -> bool",
            Cost::Text,
            native!([Value::String(a)] => match &**a {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                _ => Err(bad("bool", a)),
            }),
        ),
        row("bytes(bytes) -> bytes", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "bytes(string) -> bytes",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::Bytes(a.as_bytes().into()))
            }),
        ),
    ];
    rows.extend(numbers());
    rows.extend(texts());
    rows.extend(sizes());
    rows
}

fn bad(to: &str, from: &str) -> Error {
    let shown: String = from.chars().take(100).collect();
    Error::new(format!("type conversion error from 'string' to '{to}': {shown:?}"))
}

fn beyond() -> Error {
    Error::new("range error")
}

fn numbers() -> Vec<Row> {
    vec![
        row("int(int) -> int", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "int(uint) -> int",
            Cost::One,
            native!([Value::Uint(a)] => {
                i64::try_from(*a).map(Value::Int).map_err(|_| Error::new("integer overflow"))
            }),
        ),
        row(
            "int(double) -> int",
            Cost::One,
            native!([Value::Double(a)] => {
                // Both ends as doubles are beyond the range.
                let fits = *a > -9_223_372_036_854_775_808.0 && *a < 9_223_372_036_854_775_808.0;
                if fits { Ok(Value::Int(*a as i64)) } else { Err(Error::new("integer overflow")) }
            }),
        ),
        row(
            "int(string) -> int",
            Cost::Text,
            native!([Value::String(a)] => {
                a.parse().map(Value::Int).map_err(|_| bad("int", a))
            }),
        ),
        row(
            "int(timestamp) -> int",
            Cost::One,
            native!([Value::Timestamp(a)] => {
                Ok(Value::Int(a.as_nanosecond().div_euclid(1_000_000_000) as i64))
            }),
        ),
        row("int(duration) -> int", Cost::One, native!([Value::Duration(a)] => Ok(Value::Int(*a)))),
        row("uint(uint) -> uint", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "uint(int) -> uint",
            Cost::One,
            native!([Value::Int(a)] => {
                u64::try_from(*a).map(Value::Uint).map_err(|_| beyond())
            }),
        ),
        row(
            "uint(double) -> uint",
            Cost::One,
            native!([Value::Double(a)] => {
                let fits = *a >= 0.0 && *a < 18_446_744_073_709_551_616.0;
                if fits { Ok(Value::Uint(*a as u64)) } else { Err(beyond()) }
            }),
        ),
        row(
            "uint(string) -> uint",
            Cost::Text,
            native!([Value::String(a)] => {
                a.parse().map(Value::Uint).map_err(|_| bad("uint", a))
            }),
        ),
        row("double(double) -> double", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "double(int) -> double",
            Cost::One,
            native!([Value::Int(a)] => {
                Ok(Value::Double(*a as f64))
            }),
        ),
        row(
            "double(uint) -> double",
            Cost::One,
            native!([Value::Uint(a)] => {
                Ok(Value::Double(*a as f64))
            }),
        ),
        row(
            "double(string) -> double",
            Cost::Text,
            native!([Value::String(a)] => {
                a.parse().map(Value::Double).map_err(|_| bad("double", a))
            }),
        ),
    ]
}

fn texts() -> Vec<Row> {
    vec![
        row("string(string) -> string", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "string(bytes) -> string",
            Cost::Text,
            native!([Value::Bytes(a)] => {
                let text = std::str::from_utf8(a).map_err(|_| {
                    Error::new("invalid UTF-8 in bytes, cannot convert to string")
                })?;
                Ok(Value::string(text))
            }),
        ),
        row("string(bool) -> string", Cost::One, native!([a] => scalar(a))),
        row("string(number) -> string", Cost::One, native!([a] => scalar(a))),
        row("string(timestamp) -> string", Cost::One, native!([a] => scalar(a))),
        row("string(duration) -> string", Cost::One, native!([a] => scalar(a))),
    ]
}

fn scalar(value: &Value) -> Result<Value, Error> {
    let text = scalar_text(value);
    text.map(Value::string).ok_or_else(crate::api::cel::eval::no_overload)
}

/// A scalar as text, as `string()` gives it.
pub fn scalar_text(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Bool(a) => a.to_string(),
        Value::Int(a) => a.to_string(),
        Value::Uint(a) => a.to_string(),
        Value::Double(a) => double_text(*a),
        Value::Timestamp(a) => time::timestamp_text(*a),
        Value::Duration(a) => time::duration_text(*a),
        Value::Type(name) => name.to_string(),
        Value::Null => "null".into(),
        _ => return None,
    })
}

/// As Go's `strconv.FormatFloat(a, 'g', -1, 64)`.
fn double_text(a: f64) -> String {
    if a.is_nan() {
        return "NaN".into();
    }
    if a.is_infinite() {
        return if a > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let text = format!("{a:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..21).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{a}"),
    }
}

fn sizes() -> Vec<Row> {
    let mut rows = Vec::new();
    for signature in ["size(string) -> int", "(string).size() -> int"] {
        rows.push(row(
            signature,
            Cost::Own,
            native!(run, [Value::String(a)] => {
                run.meter.charge(text(a.len() as u64).max(1))?;
                Ok(Value::Int(a.chars().count() as i64))
            }),
        ));
    }
    let others = [
        "size(bytes) -> int",
        "size(list<A>) -> int",
        "size(map<A, B>) -> int",
        "(bytes).size() -> int",
        "(list<A>).size() -> int",
        "(map<A, B>).size() -> int",
    ];
    for signature in others {
        rows.push(row(signature, Cost::One, native!([a] => Ok(Value::Int(a.size() as i64)))));
    }
    rows
}
