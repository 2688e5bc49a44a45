//! Amounts of resources (k8s.io/apiserver/pkg/cel/library/quantity.go).

use std::any::Any;
use std::cmp::Ordering;

use crate::api::cel::eval::{Error, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::{Opaque, Value};
use crate::api::quantity::Quantity;

const TYPE: &str = "kubernetes.Quantity";

impl Opaque for Quantity {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn one(args: &[Value]) -> Result<Quantity, Error> {
    args.first().and_then(Value::is::<Quantity>).copied().ok_or_else(no_overload)
}

/// The receiver, and a quantity or a whole number.
fn two(args: &[Value]) -> Result<(Quantity, Quantity), Error> {
    let second = match args.get(1) {
        Some(Value::Int(n)) => Quantity::from_value(*n),
        Some(other) => *other.is::<Quantity>().ok_or_else(no_overload)?,
        None => return Err(no_overload()),
    };
    Ok((one(args)?, second))
}

fn as_integer(q: Quantity) -> Option<i64> {
    Some(q.value()).filter(|whole| Quantity::from_value(*whole) == q)
}

fn compare(args: &[Value]) -> Result<Ordering, Error> {
    two(args).map(|(a, b)| a.cmp(&b))
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "quantity(string) -> kubernetes.Quantity",
            Cost::Text,
            native!([Value::String(a)] => {
                Quantity::parse(a).map(Value::opaque).map_err(|error| Error::new(error.to_string()))
            }),
        ),
        row(
            "isQuantity(string) -> bool",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::Bool(Quantity::parse(a).is_ok()))
            }),
        ),
        row("(kubernetes.Quantity).sign() -> int", Cost::One, |_, a| {
            Ok(Value::Int(one(a)?.sign().into()))
        }),
        row("(kubernetes.Quantity).isInteger() -> bool", Cost::One, |_, a| {
            Ok(Value::Bool(as_integer(one(a)?).is_some()))
        }),
        row("(kubernetes.Quantity).asInteger() -> int", Cost::One, |_, a| {
            let whole = as_integer(one(a)?);
            whole.map(Value::Int).ok_or_else(|| Error::new("cannot convert value to integer"))
        }),
        row("(kubernetes.Quantity).asApproximateFloat() -> double", Cost::One, |_, a| {
            Ok(Value::Double(one(a)?.ratio(Quantity::from_value(1))))
        }),
        row("(kubernetes.Quantity).compareTo(kubernetes.Quantity) -> int", Cost::One, |_, a| {
            compare(a).map(|order| Value::Int(order as i64))
        }),
        row(
            "(kubernetes.Quantity).isGreaterThan(kubernetes.Quantity) -> bool",
            Cost::One,
            |_, a| compare(a).map(|order| Value::Bool(order.is_gt())),
        ),
        row("(kubernetes.Quantity).isLessThan(kubernetes.Quantity) -> bool", Cost::One, |_, a| {
            compare(a).map(|order| Value::Bool(order.is_lt()))
        }),
    ];
    for signature in [
        "(kubernetes.Quantity).add(kubernetes.Quantity) -> kubernetes.Quantity",
        "(kubernetes.Quantity).add(int) -> kubernetes.Quantity",
    ] {
        rows.push(row(signature, Cost::One, |_, a| two(a).map(|(a, b)| Value::opaque(a + b))));
    }
    for signature in [
        "(kubernetes.Quantity).sub(kubernetes.Quantity) -> kubernetes.Quantity",
        "(kubernetes.Quantity).sub(int) -> kubernetes.Quantity",
    ] {
        rows.push(row(signature, Cost::One, |_, a| two(a).map(|(a, b)| Value::opaque(a - b))));
    }
    rows
}
