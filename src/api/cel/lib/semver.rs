//! Semantic versions (k8s.io/apiserver/pkg/cel/library/semverlib.go; semver.org 2.0.0).

use std::any::Any;
use std::cmp::Ordering;

use crate::api::cel::eval::{Error, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::{Opaque, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Semver {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Opaque for Semver {
    fn type_name(&self) -> &'static str {
        "kubernetes.Semver"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn number(text: &str) -> Option<u64> {
    let plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

impl Semver {
    fn parse(text: &str) -> Result<Semver, Error> {
        let shown: String = text.chars().take(100).collect();
        let bad =
            || Error::new(format!("Semver parse error during conversion from string: {shown:?}"));
        let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
        let numbers: Option<Vec<u64>> = core.split('.').map(number).collect();
        let numbers = numbers.and_then(|all| <[u64; 3]>::try_from(all).ok()).ok_or_else(bad)?;
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if build.is_some_and(|build| !build.split('.').all(is_part)) {
            return Err(bad());
        }
        let identifier = |part: &str| {
            if !is_part(part) {
                return None;
            }
            if part.bytes().all(|b| b.is_ascii_digit()) {
                return number(part).map(Identifier::Number);
            }
            Some(Identifier::Text(part.to_string()))
        };
        let pre = match pre {
            Some(pre) => pre.split('.').map(identifier).collect::<Option<_>>().ok_or_else(bad)?,
            None => Vec::new(),
        };
        Ok(Semver { numbers, pre })
    }

    /// A release comes after what precedes it.
    fn order(&self, other: &Semver) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => self.pre.cmp(&other.pre),
            }
        })
    }
}

/// Without a leading `v` and leading zeros, and with all three numbers.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<&str> = core.splitn(3, '.').collect();
    for part in &mut parts {
        let bare = part.trim_start_matches('0');
        if part.len() > 1 {
            *part = if bare.is_empty() { "0" } else { bare };
        }
    }
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

fn parse(text: &str, normalize: bool) -> Result<Semver, Error> {
    if normalize { Semver::parse(&normalized(text)) } else { Semver::parse(text) }
}

fn compare(args: &[Value]) -> Result<Ordering, Error> {
    let [a, b] = args else { return Err(no_overload()) };
    match (a.is::<Semver>(), b.is::<Semver>()) {
        (Some(a), Some(b)) => Ok(a.order(b)),
        _ => Err(no_overload()),
    }
}

fn part(args: &[Value], index: usize) -> Result<Value, Error> {
    let semver = args.first().and_then(Value::is::<Semver>).ok_or_else(no_overload)?;
    Ok(Value::Int(i64::try_from(semver.numbers[index]).unwrap_or(i64::MAX)))
}

pub fn rows() -> Vec<Row> {
    vec![
        row(
            "semver(string) -> kubernetes.Semver",
            Cost::Text,
            native!([Value::String(a)] => {
                parse(a, false).map(Value::opaque)
            }),
        ),
        row(
            "semver(string, bool) -> kubernetes.Semver",
            Cost::Text,
            native!(
                [Value::String(a), Value::Bool(normalize)] => parse(a, *normalize).map(Value::opaque)
            ),
        ),
        row(
            "isSemver(string) -> bool",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::Bool(parse(a, false).is_ok()))
            }),
        ),
        row(
            "isSemver(string, bool) -> bool",
            Cost::Text,
            native!(
                [Value::String(a), Value::Bool(normalize)] => {
                    Ok(Value::Bool(parse(a, *normalize).is_ok()))
                }
            ),
        ),
        row("(kubernetes.Semver).major() -> int", Cost::One, |_, a| part(a, 0)),
        row("(kubernetes.Semver).minor() -> int", Cost::One, |_, a| part(a, 1)),
        row("(kubernetes.Semver).patch() -> int", Cost::One, |_, a| part(a, 2)),
        row("(kubernetes.Semver).compareTo(kubernetes.Semver) -> int", Cost::One, |_, a| {
            compare(a).map(|order| Value::Int(order as i64))
        }),
        row("(kubernetes.Semver).isGreaterThan(kubernetes.Semver) -> bool", Cost::One, |_, a| {
            compare(a).map(|order| Value::Bool(order.is_gt()))
        }),
        row("(kubernetes.Semver).isLessThan(kubernetes.Semver) -> bool", Cost::One, |_, a| {
            compare(a).map(|order| Value::Bool(order.is_lt()))
        }),
    ]
}
