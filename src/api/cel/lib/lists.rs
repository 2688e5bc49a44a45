//! Lists (k8s.io/apiserver/pkg/cel/library/lists.go; cel-go's ext/lists.go, version 3).

use std::cmp::Ordering;

use crate::api::cel::cost::Meter;
use crate::api::cel::eval::{Error, Evaluation, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "(list<A>).isSorted() -> bool",
            Cost::Own,
            native!(run, [Value::List(list)] => {
                for pair in list.items().windows(2) {
                    run.meter.charge(1)?;
                    if comparable(&pair[0], &pair[1], run.meter)?.is_gt() {
                        return Ok(Value::Bool(false));
                    }
                }
                Ok(Value::Bool(true))
            }),
        ),
        row(
            "(list<A>).min() -> A",
            Cost::Own,
            native!(run, [Value::List(list)] => {
                extreme(run, list.items(), "min", Ordering::is_lt)
            }),
        ),
        row(
            "(list<A>).max() -> A",
            Cost::Own,
            native!(run, [Value::List(list)] => {
                extreme(run, list.items(), "max", Ordering::is_gt)
            }),
        ),
        row(
            "(list<A>).indexOf(A) -> int",
            Cost::One,
            native!(run,
                [Value::List(list), wanted] => {
                    let items = list.items().iter().enumerate();
                    index(run, items, wanted)
                }
            ),
        ),
        row(
            "(list<A>).lastIndexOf(A) -> int",
            Cost::One,
            native!(run,
                [Value::List(list), wanted] => {
                    let items = list.items().iter().enumerate().rev();
                    index(run, items, wanted)
                }
            ),
        ),
    ];
    let sums = [
        "(list<int>).sum() -> int",
        "(list<uint>).sum() -> uint",
        "(list<double>).sum() -> double",
        "(list<duration>).sum() -> duration",
    ];
    rows.extend(sums.map(|signature| row(signature, Cost::Own, sum)));
    rows.extend(shapes());
    rows
}

fn shapes() -> Vec<Row> {
    vec![
        row(
            "(list<A>).slice(int, int) -> list<A>",
            Cost::Own,
            native!(run,
                [Value::List(list), Value::Int(from), Value::Int(to)] => {
                    let items = list.items();
                    let bad = |why: &str| Error::new(format!("cannot slice({from}, {to}), {why}"));
                    let (Ok(start), Ok(end)) = (usize::try_from(*from), usize::try_from(*to)) else {
                        return Err(bad("negative indexes not supported"));
                    };
                    if start > end {
                        return Err(bad("start index must be less than or equal to end index"));
                    }
                    let part = items.get(start..end);
                    let part = part.ok_or_else(|| bad(&format!("list is length {}", items.len())))?;
                    run.meter.charge(1 + part.len() as u64)?;
                    Ok(Value::list(part.to_vec()))
                }
            ),
        ),
        row(
            "(list<A>).flatten() -> list<dyn>",
            Cost::One,
            native!(run, [Value::List(list)] => {
                let mut out = Vec::new();
                flatten(run, list.items(), 1, &mut out)?;
                Ok(Value::list(out))
            }),
        ),
        row(
            "(list<A>).flatten(int) -> list<dyn>",
            Cost::One,
            native!(run,
                [Value::List(list), Value::Int(levels)] => {
                    if *levels < 0 {
                        return Err(Error::new("level must be non-negative"));
                    }
                    let mut out = Vec::new();
                    flatten(run, list.items(), *levels, &mut out)?;
                    Ok(Value::list(out))
                }
            ),
        ),
        row(
            "(list<A>).sort() -> list<A>",
            Cost::One,
            native!(run, [Value::List(list)] => {
                let items = list.items().to_vec();
                let keys = items.clone();
                sorted_by(items, &keys, run.meter).map(Value::list)
            }),
        ),
        row(
            "(list<A>).distinct() -> list<A>",
            Cost::One,
            native!(run, [Value::List(list)] => {
                let mut out: Vec<Value> = Vec::new();
                'items: for item in list.items() {
                    for known in &out {
                        if known.equals(item, run.meter)? {
                            continue 'items;
                        }
                    }
                    run.meter.charge(1)?;
                    out.push(item.clone());
                }
                Ok(Value::list(out))
            }),
        ),
        row(
            "(list<A>).reverse() -> list<A>",
            Cost::Own,
            native!(run, [Value::List(list)] => {
                run.meter.charge(1 + list.items().len() as u64)?;
                Ok(Value::list(list.items().iter().rev().cloned().collect()))
            }),
        ),
        row(
            "(list<A>).first() -> optional<A>",
            Cost::One,
            native!([Value::List(list)] => {
                Ok(list.items().first().cloned().map_or(Value::NONE, Value::some))
            }),
        ),
        row(
            "(list<A>).last() -> optional<A>",
            Cost::One,
            native!([Value::List(list)] => {
                Ok(list.items().last().cloned().map_or(Value::NONE, Value::some))
            }),
        ),
        row(
            "lists.range(int) -> list<int>",
            Cost::Own,
            native!(run, [Value::Int(end)] => {
                run.meter.charge(1 + u64::try_from(*end).unwrap_or(0))?;
                Ok(Value::list((0..*end).map(Value::Int).collect()))
            }),
        ),
    ]
}

/// The order of two elements.
fn comparable(a: &Value, b: &Value, meter: &mut Meter) -> Result<Ordering, Error> {
    a.order(b, meter)?.ok_or_else(no_overload)
}

fn extreme(
    run: &mut Evaluation<'_>,
    items: &[Value],
    name: &str,
    is_better: fn(Ordering) -> bool,
) -> Result<Value, Error> {
    let Some(mut best) = items.first() else {
        return Err(Error::new(format!("{name} called on empty list")));
    };
    // A single element must be comparable too.
    comparable(best, best, run.meter)?;
    for item in items {
        run.meter.charge(1)?;
        if is_better(comparable(item, best, run.meter)?) {
            best = item;
        }
    }
    Ok(best.clone())
}

fn index<'a>(
    run: &mut Evaluation<'_>,
    items: impl Iterator<Item = (usize, &'a Value)>,
    wanted: &Value,
) -> Result<Value, Error> {
    for (index, item) in items {
        if item.equals(wanted, run.meter)? {
            return Ok(Value::Int(index as i64));
        }
    }
    Ok(Value::Int(-1))
}

fn sum(run: &mut Evaluation<'_>, args: &[Value]) -> Result<Value, Error> {
    let [Value::List(list)] = args else { return Err(no_overload()) };
    run.meter.charge(1 + list.items().len() as u64)?;
    let mut items = list.items().iter();
    let mut total = items.next().cloned().unwrap_or(Value::Int(0));
    if !matches!(total, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)) {
        return Err(no_overload());
    }
    let overflow = |what: &str| Error::new(what);
    for item in items {
        total = match (&total, item) {
            (Value::Int(a), Value::Int(b)) => {
                Value::Int(a.checked_add(*b).ok_or_else(|| overflow("integer overflow"))?)
            }
            (Value::Uint(a), Value::Uint(b)) => {
                let sum = a.checked_add(*b);
                Value::Uint(sum.ok_or_else(|| overflow("unsigned integer overflow"))?)
            }
            (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
            (Value::Duration(a), Value::Duration(b)) => {
                Value::Duration(a.checked_add(*b).ok_or_else(|| overflow("duration overflow"))?)
            }
            _ => return Err(no_overload()),
        };
    }
    Ok(total)
}

fn flatten(
    run: &mut Evaluation<'_>,
    items: &[Value],
    levels: i64,
    out: &mut Vec<Value>,
) -> Result<(), Error> {
    for item in items {
        run.meter.charge(1)?;
        match item {
            // Values have a bounded depth, and with it this recursion.
            Value::List(inner) if levels > 0 => flatten(run, inner.items(), levels - 1, out)?,
            other => out.push(other.clone()),
        }
    }
    Ok(())
}

/// Elements in the order of their keys, equal ones as they stood. The keys must all have an order
/// with each other.
pub fn sorted_by(
    items: Vec<Value>,
    keys: &[Value],
    meter: &mut Meter,
) -> Result<Vec<Value>, Error> {
    let sized = |value: &Value| match value {
        Value::String(_) | Value::Bytes(_) => value.size(),
        _ => 1,
    };
    let bytes: u64 = keys.iter().map(sized).sum();
    let rounds = u64::from(usize::BITS - keys.len().leading_zeros());
    meter.charge(keys.len() as u64 + bytes.saturating_mul(rounds))?;
    // What has an order with itself and with the first has one with all: numbers with numbers, and
    // everything else with its own type.
    if let Some(first) = keys.first() {
        for key in keys {
            let mut free = Meter::new(u64::MAX);
            let why = || Error::new("list elements must have the same type and be comparable");
            comparable(key, key, &mut free).map_err(|_| why())?;
            comparable(first, key, &mut free).map_err(|_| why())?;
        }
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| {
        let mut free = Meter::new(u64::MAX);
        let order = keys[*a].order(&keys[*b], &mut free).ok().flatten();
        order.unwrap_or(Ordering::Equal)
    });
    Ok(order.into_iter().map(|index| items[index].clone()).collect())
}
