//! Patterns (k8s.io/apiserver/pkg/cel/library/regex.go).

use std::sync::Arc;

use regex::Regex;

use crate::api::cel::cost::{Meter, PATTERN_CHARACTERS_PER_FACTOR, text};
use crate::api::cel::eval::{Error, Evaluation, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;
use crate::api::regexp;

/// The largest program that a pattern may become, in bytes.
const MAX_PROGRAM_BYTES: usize = 1 << 18;

pub fn compile(pattern: &str) -> Result<Regex, String> {
    regexp::compile(pattern, MAX_PROGRAM_BYTES)
        .map_err(|why| format!("error parsing regexp: {why}"))
}

/// What matching costs: the text's length times a factor that grows with the pattern.
pub fn charge_match(meter: &mut Meter, subject: &str, pattern: &str) -> Result<(), Error> {
    let factor = states(pattern).div_ceil(PATTERN_CHARACTERS_PER_FACTOR).max(1);
    meter.charge(text(1 + subject.len() as u64).saturating_mul(factor))
}

/// How many states a pattern has, about: its characters, with those that are repeated a number of
/// times counted as often. (Upstream counts characters only; a count makes a pattern dear that is
/// short.)
fn states(pattern: &str) -> u64 {
    // The size of what stands before in each open group, and of the last element.
    let mut groups: Vec<u64> = Vec::new();
    let (mut before, mut last) = (0u64, 0u64);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' => {
                groups.push(before.saturating_add(last));
                (before, last) = (0, 0);
            }
            ')' => {
                last = before.saturating_add(last).saturating_add(1);
                before = groups.pop().unwrap_or(0);
            }
            '{' => {
                let mut most = 0u64;
                let mut number = 0u64;
                for c in chars.by_ref() {
                    match c.to_digit(10) {
                        Some(digit) => {
                            number = number.saturating_mul(10).saturating_add(digit.into());
                            most = most.max(number);
                        }
                        None if c == '}' => break,
                        None => number = 0,
                    }
                }
                last = last.saturating_mul(most.max(1));
            }
            _ => {
                before = before.saturating_add(last);
                last = 1;
                if c == '\\' {
                    chars.next();
                }
                if c == '[' {
                    // A class is one state, however long it is written.
                    while let Some(c) = chars.next() {
                        last += 1;
                        match c {
                            '\\' => drop(chars.next()),
                            ']' => break,
                            _ => {}
                        }
                    }
                    last = last.div_ceil(4);
                }
            }
        }
    }
    groups.into_iter().fold(before.saturating_add(last), u64::saturating_add)
}

pub fn rows() -> Vec<Row> {
    vec![
        row(
            "(string).find(string) -> string",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(pattern)] => {
                    charge_match(run.meter, a, pattern)?;
                    let pattern = run.pattern(pattern)?;
                    Ok(Value::string(pattern.find(a).map_or("", |found| found.as_str())))
                }
            ),
        ),
        row("(string).findAll(string) -> list<string>", Cost::Own, |run, args| {
            let [Value::String(a), Value::String(pattern)] = args else {
                return Err(no_overload());
            };
            find_all(run, a, pattern, -1)
        }),
        row("(string).findAll(string, int) -> list<string>", Cost::Own, |run, args| {
            let [Value::String(a), Value::String(pattern), Value::Int(limit)] = args else {
                return Err(no_overload());
            };
            find_all(run, a, pattern, *limit)
        }),
    ]
}

fn find_all(
    run: &mut Evaluation<'_>,
    a: &Arc<str>,
    pattern: &Arc<str>,
    limit: i64,
) -> Result<Value, Error> {
    charge_match(run.meter, a, pattern)?;
    let pattern = run.pattern(pattern)?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for part in pattern.find_iter(a).take(most) {
        // Some patterns look at all that is left to find one character.
        run.meter.charge(1 + text(text((a.len() - part.start()) as u64)))?;
        found.push(part.as_str().to_string());
    }
    Ok(Value::strings(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_multiply() {
        assert_eq!(states("abc"), 3);
        assert_eq!(states("a{10}"), 10);
        assert!(states("((a{100}){100}){100}") >= 1_000_000);
        assert!(states("a{3}b{3}c{3}") < 12);
        assert!(states("^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$") < 300);
        assert!(compile("(((((a{1000}){1000}){1000})))").is_err());
    }
}
