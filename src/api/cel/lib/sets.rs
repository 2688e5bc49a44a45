//! Lists as sets (cel-go's ext/sets.go).

use crate::api::cel::eval::{Error, Evaluation, no_overload};
use crate::api::cel::functions::{Cost, Row, row};
use crate::api::cel::value::{List, Value};

pub fn rows() -> Vec<Row> {
    vec![
        row("sets.contains(list<A>, list<A>) -> bool", Cost::One, |run, args| {
            let (a, b) = lists(args)?;
            all_in(run, b, a).map(Value::Bool)
        }),
        row("sets.equivalent(list<A>, list<A>) -> bool", Cost::One, |run, args| {
            let (a, b) = lists(args)?;
            Ok(Value::Bool(all_in(run, a, b)? && all_in(run, b, a)?))
        }),
        row("sets.intersects(list<A>, list<A>) -> bool", Cost::One, |run, args| {
            let (a, b) = lists(args)?;
            for item in b.items() {
                if a.contains(item, run.meter)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }),
    ]
}

fn lists(args: &[Value]) -> Result<(&List, &List), Error> {
    match args {
        [Value::List(a), Value::List(b)] => Ok((a, b)),
        _ => Err(no_overload()),
    }
}

fn all_in(run: &mut Evaluation<'_>, some: &List, all: &List) -> Result<bool, Error> {
    for item in some.items() {
        if !all.contains(item, run.meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}
