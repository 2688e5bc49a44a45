//! `"%s has %d".format([a, b])` (cel-go's ext/formatting.go).

use super::convert::scalar_text;
use super::strings::quoted;
use crate::api::cel::cost::text;
use crate::api::cel::eval::{Error, Evaluation, no_overload};
use crate::api::cel::functions::{Cost, Row, row};
use crate::api::cel::value::{Key, Value};

/// Most digits behind the point.
const MAX_PRECISION: usize = 1000;

pub fn rows() -> Vec<Row> {
    vec![row("(string).format(list<dyn>) -> string", Cost::Text, format)]
}

fn format(run: &mut Evaluation<'_>, args: &[Value]) -> Result<Value, Error> {
    let [Value::String(pattern), Value::List(args)] = args else { return Err(no_overload()) };
    let mut args = args.items().iter().enumerate();
    let mut out = String::new();
    let mut rest: &str = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (precision, verb) = clause(&mut rest)?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some((index, arg)) = args.next() else {
            return Err(Error::new(format!("index {} out of range", args.len())));
        };
        let told = |error: Error| match error {
            Error::Failed(why) => Error::new(format!("error during formatting: {why} at {index}")),
            other => other,
        };
        substitute(run, &mut out, verb, precision, arg).map_err(told)?;
    }
    out.push_str(rest);
    Ok(Value::string(out))
}

/// What follows a percent sign: a precision, and the letter.
fn clause(rest: &mut &str) -> Result<(Option<usize>, char), Error> {
    let mut precision = None;
    if let Some(tail) = rest.strip_prefix('.') {
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let parsed = tail[..digits].parse().ok().filter(|n| *n <= MAX_PRECISION);
        let why = || Error::new("could not parse formatting string: invalid precision");
        precision = Some(parsed.ok_or_else(why)?);
        *rest = &tail[digits..];
    }
    let why = || Error::new("could not parse formatting string: unexpected end of string");
    let verb = rest.chars().next().ok_or_else(why)?;
    *rest = &rest[verb.len_utf8()..];
    Ok((precision, verb))
}

fn substitute(
    run: &mut Evaluation<'_>,
    out: &mut String,
    verb: char,
    precision: Option<usize>,
    arg: &Value,
) -> Result<(), Error> {
    run.meter.charge(1)?;
    let wrong = |what: &str| {
        let found = arg.type_name();
        Err(Error::new(format!("{what} clause cannot be used on {found}")))
    };
    let digits = precision.unwrap_or(6);
    let piece = match (verb, arg) {
        ('s', arg) => return plain(run, out, arg, false),
        ('d', Value::Int(_) | Value::Uint(_)) => scalar_text(arg).unwrap_or_default(),
        ('d', _) => return wrong("decimal"),
        ('f' | 'e', Value::String(text)) if is_special(text) => text.to_string(),
        ('f' | 'e', Value::Double(n)) if n.is_nan() => "NaN".into(),
        ('f' | 'e', Value::Double(n)) if n.is_infinite() => {
            if *n > 0.0 { "Infinity" } else { "-Infinity" }.into()
        }
        ('f', Value::Double(n)) => format!("{n:.digits$}"),
        ('e', Value::Double(n)) => scientific(*n, digits),
        ('f', _) => return wrong("fixed-point"),
        ('e', _) => return wrong("scientific"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('b', Value::Int(n)) => signed(*n, format!("{:b}", n.unsigned_abs())),
        ('b', Value::Uint(n)) => format!("{n:b}"),
        ('b', _) => return wrong("binary"),
        ('o', Value::Int(n)) => signed(*n, format!("{:o}", n.unsigned_abs())),
        ('o', Value::Uint(n)) => format!("{n:o}"),
        ('o', _) => return wrong("octal"),
        ('x' | 'X', arg) => {
            let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            run.meter.charge(text(2 * arg.size()))?;
            let piece: String = match arg {
                Value::String(text) => bytes(text.as_bytes()),
                Value::Bytes(all) => bytes(all),
                Value::Int(n) => signed(*n, format!("{:x}", n.unsigned_abs())),
                Value::Uint(n) => format!("{n:x}"),
                _ => return wrong("hex"),
            };
            if verb == 'X' { piece.to_ascii_uppercase() } else { piece }
        }
        (other, _) => {
            let why = format!(
                "could not parse formatting string: unrecognized formatting clause \
                               \"{other}\""
            );
            return Err(Error::new(why));
        }
    };
    run.meter.charge(text(piece.len() as u64))?;
    out.push_str(&piece);
    Ok(())
}

fn is_special(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity")
}

fn signed(n: i64, digits: String) -> String {
    if n < 0 { format!("-{digits}") } else { digits }
}

/// With at least two digits in the exponent.
fn scientific(n: f64, digits: usize) -> String {
    let text = format!("{n:.digits$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// `%s`: inside lists and maps, texts are in quotes.
fn plain(
    run: &mut Evaluation<'_>,
    out: &mut String,
    arg: &Value,
    inside: bool,
) -> Result<(), Error> {
    run.meter.charge(1 + text(arg.size()))?;
    match arg {
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.items().iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                plain(run, out, item, true)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (index, (key, value)) in map.entries().iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                match key {
                    Key::String(key) => out.push_str(&quoted(key)),
                    key => out.push_str(&scalar_text(&key.value()).unwrap_or_default()),
                }
                out.push(':');
                plain(run, out, value, true)?;
            }
            out.push('}');
        }
        Value::String(text) if inside => out.push_str(&quoted(text)),
        Value::Bytes(bytes) if inside => {
            out.push('b');
            out.push_str(&quoted(&String::from_utf8_lossy(bytes)));
        }
        Value::Double(n) if inside && n.is_finite() => out.push_str(&format!("{n:.6}")),
        Value::Type(name) if inside => out.push_str(&format!("type({name})")),
        other => match scalar_text(other) {
            Some(text) => out.push_str(&text),
            None => {
                let found = other.type_name();
                return Err(Error::new(format!("string clause cannot be used on {found}")));
            }
        },
    }
    Ok(())
}
