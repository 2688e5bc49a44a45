//! Strings (the standard ones, and cel-go's ext/strings.go, version 2). Positions count characters.

use std::sync::Arc;

use super::regex::charge_match;
use crate::api::cel::cost::text;
use crate::api::cel::eval::{Error, Evaluation};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

pub fn rows() -> Vec<Row> {
    let mut rows = tests();
    rows.extend(positions());
    rows.extend(changes());
    rows
}

fn tests() -> Vec<Row> {
    vec![
        row(
            "(string).contains(string) -> bool",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(b)] => {
                    run.meter.charge(text(a.len() as u64).max(1) * text(b.len() as u64).max(1))?;
                    Ok(Value::Bool(a.contains(&**b)))
                }
            ),
        ),
        row(
            "(string).startsWith(string) -> bool",
            Cost::Text,
            native!(
                [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.starts_with(&**b)))
            ),
        ),
        row(
            "(string).endsWith(string) -> bool",
            Cost::Text,
            native!(
                [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.ends_with(&**b)))
            ),
        ),
        row("(string).matches(string) -> bool", Cost::Own, matches),
        row("matches(string, string) -> bool", Cost::Own, matches),
    ]
}

fn matches(run: &mut Evaluation<'_>, args: &[Value]) -> Result<Value, Error> {
    let [Value::String(a), Value::String(pattern)] = args else {
        return Err(crate::api::cel::eval::no_overload());
    };
    charge_match(run.meter, a, pattern)?;
    Ok(Value::Bool(run.pattern(pattern)?.is_match(a)))
}

fn out_of_range(index: i64) -> Error {
    Error::new(format!("index out of range: {index}"))
}

/// The offset of the character at an index; the end is one too.
fn offset(a: &str, index: i64) -> Result<usize, Error> {
    let at = usize::try_from(index).map_err(|_| out_of_range(index))?;
    let ends = a.char_indices().map(|(offset, _)| offset).chain([a.len()]);
    ends.into_iter().nth(at).ok_or_else(|| out_of_range(index))
}

fn count(a: &str) -> Value {
    Value::Int(a.chars().count() as i64)
}

fn index_of(a: &str, b: &str, from: i64) -> Result<Value, Error> {
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Ok(start) = offset(a, from) else { return Ok(Value::Int(-1)) };
    Ok(a[start..].find(b).map_or(Value::Int(-1), |at| count(&a[..start + at])))
}

fn last_index_of(a: &str, b: &str, from: i64) -> Result<Value, Error> {
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Ok(start) = offset(a, from) else { return Ok(Value::Int(-1)) };
    // A match may begin at the index, and goes on behind it.
    let mut end = (start + b.len()).min(a.len());
    while !a.is_char_boundary(end) {
        end += 1;
    }
    Ok(a[..end].rfind(b).map_or(Value::Int(-1), |at| count(&a[..at])))
}

/// What a search costs: a walk for each piece of what is searched.
fn search(run: &mut Evaluation<'_>, a: &str, b: &str) -> Result<(), Error> {
    run.meter.charge(text(a.len() as u64).max(1) + text(b.len() as u64))
}

fn positions() -> Vec<Row> {
    vec![
        row(
            "(string).charAt(int) -> string",
            Cost::Text,
            native!(
                [Value::String(a), Value::Int(index)] => {
                    let at = offset(a, *index)?;
                    Ok(Value::string(a[at..].chars().take(1).collect::<String>()))
                }
            ),
        ),
        row(
            "(string).indexOf(string) -> int",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(b)] => {
                    search(run, a, b)?;
                    index_of(a, b, 0)
                }
            ),
        ),
        row(
            "(string).indexOf(string, int) -> int",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(b), Value::Int(from)] => {
                    search(run, a, b)?;
                    index_of(a, b, *from)
                }
            ),
        ),
        row(
            "(string).lastIndexOf(string) -> int",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(b)] => {
                    search(run, a, b)?;
                    Ok(a.rfind(&**b).map_or(Value::Int(-1), |at| count(&a[..at])))
                }
            ),
        ),
        row(
            "(string).lastIndexOf(string, int) -> int",
            Cost::Own,
            native!(run,
                [Value::String(a), Value::String(b), Value::Int(from)] => {
                    search(run, a, b)?;
                    last_index_of(a, b, *from)
                }
            ),
        ),
        row(
            "(string).substring(int) -> string",
            Cost::Text,
            native!(
                [Value::String(a), Value::Int(from)] => {
                    Ok(Value::string(&a[offset(a, *from)?..]))
                }
            ),
        ),
        row(
            "(string).substring(int, int) -> string",
            Cost::Text,
            native!(
                [Value::String(a), Value::Int(from), Value::Int(to)] => {
                    let (start, end) = (offset(a, *from)?, offset(a, *to)?);
                    if start > end {
                        let why = format!("invalid substring range. start: {from}, end: {to}");
                        return Err(Error::new(why));
                    }
                    Ok(Value::string(&a[start..end]))
                }
            ),
        ),
    ]
}

fn changes() -> Vec<Row> {
    vec![
        row(
            "(string).lowerAscii() -> string",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::string(a.to_ascii_lowercase()))
            }),
        ),
        row(
            "(string).upperAscii() -> string",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::string(a.to_ascii_uppercase()))
            }),
        ),
        row(
            "(string).trim() -> string",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::string(a.trim()))
            }),
        ),
        row(
            "(string).replace(string, string) -> string",
            Cost::TwiceText,
            native!(run,
                [Value::String(a), Value::String(b), Value::String(c)] => replace(run, a, b, c, -1)
            ),
        ),
        row(
            "(string).replace(string, string, int) -> string",
            Cost::TwiceText,
            native!(run,
                [Value::String(a), Value::String(b), Value::String(c), Value::Int(limit)] => {
                    replace(run, a, b, c, *limit)
                }
            ),
        ),
        row(
            "(string).split(string) -> list<string>",
            Cost::TwiceText,
            native!(run,
                [Value::String(a), Value::String(b)] => split(run, a, b, -1)
            ),
        ),
        row(
            "(string).split(string, int) -> list<string>",
            Cost::TwiceText,
            native!(run,
                [Value::String(a), Value::String(b), Value::Int(limit)] => split(run, a, b, *limit)
            ),
        ),
        row(
            "(list<string>).join() -> string",
            Cost::Own,
            native!(run,
                [Value::List(list)] => join(run, list.items(), "")
            ),
        ),
        row(
            "(list<string>).join(string) -> string",
            Cost::Own,
            native!(run,
                [Value::List(list), Value::String(between)] => join(run, list.items(), between)
            ),
        ),
        row(
            "strings.quote(string) -> string",
            Cost::TwiceText,
            native!([Value::String(a)] => {
                Ok(Value::string(quoted(a)))
            }),
        ),
    ]
}

fn replace(
    run: &mut Evaluation<'_>,
    a: &Arc<str>,
    from: &str,
    to: &str,
    limit: i64,
) -> Result<Value, Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = a.matches(from).take(limit).count();
    let grown = found as u64 * to.len() as u64;
    run.meter.charge(text(grown))?;
    Ok(Value::string(a.replacen(from, to, limit)))
}

fn split(run: &mut Evaluation<'_>, a: &str, by: &str, limit: i64) -> Result<Value, Error> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<String> = match by {
        "" => {
            run.meter.charge(a.len() as u64)?;
            let mut ends: Vec<usize> = a.char_indices().map(|(at, _)| at).take(most).collect();
            ends.push(a.len());
            ends.windows(2).map(|pair| a[pair[0]..pair[1]].to_string()).collect()
        }
        by => {
            run.meter.charge(a.matches(by).take(most).count() as u64)?;
            a.splitn(most, by).map(str::to_string).collect()
        }
    };
    Ok(Value::strings(parts))
}

fn join(run: &mut Evaluation<'_>, items: &[Value], between: &str) -> Result<Value, Error> {
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        let Value::String(item) = item else {
            return Err(crate::api::cel::eval::no_overload());
        };
        run.meter.charge(1 + text((item.len() + between.len()) as u64))?;
        if index > 0 {
            out.push_str(between);
        }
        out.push_str(item);
    }
    Ok(Value::string(out))
}

/// In double quotes, with escapes for what is not seen.
pub fn quoted(a: &str) -> String {
    let mut out = String::with_capacity(a.len() + 2);
    out.push('"');
    for c in a.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
