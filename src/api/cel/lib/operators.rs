//! Operators (cel-spec/doc/langdef.md, "List of Standard Definitions"). Arithmetic that leaves its
//! type's range is an error.

use std::cmp::Ordering;

use crate::api::cel::cost::text;
use crate::api::cel::eval::{Error, Evaluation, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

const INT: &str = "integer overflow";
const UINT: &str = "unsigned integer overflow";

fn int(result: Option<i64>) -> Result<Value, Error> {
    result.map(Value::Int).ok_or_else(|| Error::new(INT))
}

fn uint(result: Option<u64>) -> Result<Value, Error> {
    result.map(Value::Uint).ok_or_else(|| Error::new(UINT))
}

fn divisor<T: Default + PartialEq>(by: &T, what: &str) -> Result<(), Error> {
    if *by == T::default() { Err(Error::new(what)) } else { Ok(()) }
}

macro_rules! relation {
    ($name:literal, $holds:expr) => {
        [
            row(concat!($name, "(number, number) -> bool"), Cost::One, |r, a| order(r, a, $holds)),
            row(concat!($name, "(string, string) -> bool"), Cost::One, |r, a| order(r, a, $holds)),
            row(concat!($name, "(bytes, bytes) -> bool"), Cost::One, |r, a| order(r, a, $holds)),
            row(concat!($name, "(bool, bool) -> bool"), Cost::One, |r, a| order(r, a, $holds)),
            row(concat!($name, "(timestamp, timestamp) -> bool"), Cost::One, |r, a| {
                order(r, a, $holds)
            }),
            row(concat!($name, "(duration, duration) -> bool"), Cost::One, |r, a| {
                order(r, a, $holds)
            }),
        ]
    };
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "_==_(A, A) -> bool",
            Cost::Own,
            native!(run, [a, b] => {
                a.equals(b, run.meter).map(Value::Bool)
            }),
        ),
        row(
            "_!=_(A, A) -> bool",
            Cost::Own,
            native!(run, [a, b] => {
                a.equals(b, run.meter).map(|same| Value::Bool(!same))
            }),
        ),
        row(
            "@in(A, list<A>) -> bool",
            Cost::One,
            native!(run, [a, Value::List(list)] => {
                list.contains(a, run.meter).map(Value::Bool)
            }),
        ),
        row(
            "@in(A, map<A, B>) -> bool",
            Cost::One,
            native!([key, Value::Map(map)] => {
                Ok(Value::Bool(map.get(key).is_some()))
            }),
        ),
        row("!_(bool) -> bool", Cost::One, native!([Value::Bool(a)] => Ok(Value::Bool(!a)))),
        row("-_(int) -> int", Cost::One, native!([Value::Int(a)] => int(a.checked_neg()))),
        row(
            "-_(double) -> double",
            Cost::One,
            native!([Value::Double(a)] => {
                Ok(Value::Double(-a))
            }),
        ),
        row(
            "_+_(string, string) -> string",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(b)] => {
                    run.meter.charge(text((a.len() + b.len()) as u64))?;
                    Ok(Value::string(format!("{a}{b}")))
                }
            ),
        ),
        row(
            "_+_(bytes, bytes) -> bytes",
            Cost::Own,
            native!(run,
                [Value::Bytes(a), Value::Bytes(b)] => {
                    run.meter.charge(text((a.len() + b.len()) as u64))?;
                    Ok(Value::Bytes([&**a, &**b].concat().into()))
                }
            ),
        ),
        row(
            "_+_(list<A>, list<A>) -> list<A>",
            Cost::One,
            native!(run,
                [Value::List(a), Value::List(b)] => a.plus(b, run.meter).map(Value::List)
            ),
        ),
    ];
    rows.extend(arithmetic());
    rows.extend(relation!("_<_", Ordering::is_lt));
    rows.extend(relation!("_<=_", Ordering::is_le));
    rows.extend(relation!("_>_", Ordering::is_gt));
    rows.extend(relation!("_>=_", Ordering::is_ge));
    rows
}

fn arithmetic() -> Vec<Row> {
    vec![
        row(
            "_+_(int, int) -> int",
            Cost::One,
            native!([Value::Int(a), Value::Int(b)] => {
                int(a.checked_add(*b))
            }),
        ),
        row(
            "_-_(int, int) -> int",
            Cost::One,
            native!([Value::Int(a), Value::Int(b)] => {
                int(a.checked_sub(*b))
            }),
        ),
        row(
            "_*_(int, int) -> int",
            Cost::One,
            native!([Value::Int(a), Value::Int(b)] => {
                int(a.checked_mul(*b))
            }),
        ),
        row(
            "_/_(int, int) -> int",
            Cost::One,
            native!([Value::Int(a), Value::Int(b)] => {
                divisor(b, "division by zero")?;
                int(a.checked_div(*b))
            }),
        ),
        row(
            "_%_(int, int) -> int",
            Cost::One,
            native!([Value::Int(a), Value::Int(b)] => {
                divisor(b, "modulus by zero")?;
                int(a.checked_rem(*b))
            }),
        ),
        row(
            "_+_(uint, uint) -> uint",
            Cost::One,
            native!([Value::Uint(a), Value::Uint(b)] => {
                uint(a.checked_add(*b))
            }),
        ),
        row(
            "_-_(uint, uint) -> uint",
            Cost::One,
            native!([Value::Uint(a), Value::Uint(b)] => {
                uint(a.checked_sub(*b))
            }),
        ),
        row(
            "_*_(uint, uint) -> uint",
            Cost::One,
            native!([Value::Uint(a), Value::Uint(b)] => {
                uint(a.checked_mul(*b))
            }),
        ),
        row(
            "_/_(uint, uint) -> uint",
            Cost::One,
            native!([Value::Uint(a), Value::Uint(b)] => {
                divisor(b, "division by zero")?;
                uint(a.checked_div(*b))
            }),
        ),
        row(
            "_%_(uint, uint) -> uint",
            Cost::One,
            native!([Value::Uint(a), Value::Uint(b)] => {
                divisor(b, "modulus by zero")?;
                uint(a.checked_rem(*b))
            }),
        ),
        row(
            "_+_(double, double) -> double",
            Cost::One,
            native!(
                [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b))
            ),
        ),
        row(
            "_-_(double, double) -> double",
            Cost::One,
            native!(
                [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b))
            ),
        ),
        row(
            "_*_(double, double) -> double",
            Cost::One,
            native!(
                [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b))
            ),
        ),
        row(
            "_/_(double, double) -> double",
            Cost::One,
            native!(
                [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b))
            ),
        ),
    ]
}

/// Whether the arguments stand in an order; NaN stands in none.
fn order(
    run: &mut Evaluation<'_>,
    args: &[Value],
    holds: fn(Ordering) -> bool,
) -> Result<Value, Error> {
    let [a, b] = args else { return Err(no_overload()) };
    let is_double = |value: &Value| matches!(value, Value::Double(_));
    match a.order(b, run.meter)? {
        Some(order) => Ok(Value::Bool(holds(order))),
        None if is_double(a) || is_double(b) => Ok(Value::Bool(false)),
        None => Err(no_overload()),
    }
}
