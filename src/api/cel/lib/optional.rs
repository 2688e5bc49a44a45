//! Values that may be missing (cel-go's cel/library.go, `OptionalTypes`).

use std::sync::Arc;

use crate::api::cel::eval::Error;
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

pub fn rows() -> Vec<Row> {
    vec![
        row("optional.of(A) -> optional<A>", Cost::One, native!([a] => Ok(Value::some(a.clone())))),
        row(
            "optional.ofNonZeroValue(A) -> optional<A>",
            Cost::One,
            native!([a] => {
                Ok(if is_zero(a) { Value::NONE } else { Value::some(a.clone()) })
            }),
        ),
        row("optional.none() -> optional<A>", Cost::One, native!([] => Ok(Value::NONE))),
        row(
            "(optional<A>).value() -> A",
            Cost::One,
            native!([Value::Optional(a)] => match a {
                Some(value) => Ok((**value).clone()),
                None => Err(Error::new("optional.none() dereference")),
            }),
        ),
        row(
            "(optional<A>).hasValue() -> bool",
            Cost::One,
            native!([Value::Optional(a)] => {
                Ok(Value::Bool(a.is_some()))
            }),
        ),
        row(
            "(optional<A>).or(optional<A>) -> optional<A>",
            Cost::One,
            native!(
                [Value::Optional(a), b] => {
                    Ok(a.clone().map_or_else(|| b.clone(), |a: Arc<Value>| Value::Optional(Some(a))))
                }
            ),
        ),
        row(
            "(optional<A>).orValue(A) -> A",
            Cost::One,
            native!([Value::Optional(a), b] => {
                Ok(a.as_ref().map_or_else(|| b.clone(), |a| (**a).clone()))
            }),
        ),
        row(
            "optional.unwrap(list<optional<A>>) -> list<A>",
            Cost::Own,
            native!(run,
                [Value::List(list)] => {
                    run.meter.charge(1 + list.items().len() as u64)?;
                    let values = list.items().iter().filter_map(|item| match item {
                        Value::Optional(inner) => inner.as_ref().map(|value| (**value).clone()),
                        other => Some(other.clone()),
                    });
                    Ok(Value::list(values.collect()))
                }
            ),
        ),
    ]
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(a) => !a,
        Value::Int(a) | Value::Duration(a) => *a == 0,
        Value::Uint(a) => *a == 0,
        Value::Double(a) => *a == 0.0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        _ => false,
    }
}
