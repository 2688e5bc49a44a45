//! What calls of functions cost at most, and how large their results are
//! (k8s.io/apiserver/pkg/cel/library/cost.go, and the functions of cel-go's checker/cost.go).
//! A function that is not named costs one, as upstream.

use super::ast::{Call, Expr, Kind};
use super::cost;
use super::estimate::{Size, Sized};
use super::functions::Overload;
use super::schema::ShapeKind;
use super::types::Type;
use super::value::Value;

/// Bytes of a network address.
const ADDRESS: u64 = 16;
/// Longest pattern of a named format, in characters.
const FORMAT_PATTERN: u64 = 128;
/// Most bytes of a number, time or period as text.
const SCALAR_TEXT: u64 = 40;

/// A walk over so many bytes.
fn walk(size: Size) -> u64 {
    cost::text(size.most)
}

/// Two walks over them.
fn walk_twice(size: Size) -> u64 {
    cost::text(size.most.saturating_mul(2))
}

/// A pattern over a text.
fn matching(text: Size, pattern: Size) -> u64 {
    let factor = pattern.most.div_ceil(cost::PATTERN_CHARACTERS_PER_FACTOR);
    cost::text(text.most.saturating_add(1)).saturating_mul(factor)
}

/// The cost beside the arguments', and the result.
pub(super) fn call(call: &Call, args: &[Sized]) -> (u64, Sized) {
    let size = |index: usize| args.get(index).map_or(Size::UNKNOWN, Sized::size);
    let (first, second) = (size(0), size(1));
    let takes = |is: fn(&Type) -> bool| {
        call.overloads.iter().any(|known| known.params.first().is_some_and(is))
    };
    let takes_list = takes(|of| matches!(of, Type::List(_)));
    let takes_text = takes(|of| matches!(of, Type::String | Type::Bytes));
    let result = || result(call, args);
    match (&*call.name, call.member) {
        ("check", true) => (cost::AUTHORIZE, result()),
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", true) => {
            let cost = match takes_list {
                true => first.most.saturating_mul(1 + element_walk(&args[0])),
                false => walk(first),
            };
            (cost, result())
        }
        ("url", false) => (walk(first), result()),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", true) => {
            (walk(first), Sized::holding(Size::up_to(first.most)))
        }
        ("replace", true) => {
            let made = replaced(first, second, size(2));
            (walk_twice(first), Sized::holding(made))
        }
        ("split", true) => {
            let limit = call.args.get(2).and_then(whole);
            let count = Size::up_to(limit.unwrap_or(first.most));
            (walk_twice(first), Sized::of_parts(count, Sized::holding(Size::up_to(first.most))))
        }
        ("join", true) => {
            let mut made = first.times(args[0].element().size());
            if args.len() > 1 {
                let between = Size {
                    least: first.least.saturating_sub(1),
                    most: first.most.saturating_sub(1),
                };
                made = made.plus(second.times(between));
            }
            (walk(made), Sized::holding(made))
        }
        ("find", true) => (matching(first, second), Sized::holding(Size::up_to(first.most))),
        ("findAll", true) => {
            let found = Sized::holding(Size::up_to(first.most));
            (matching(first, second), Sized::of_parts(Size::up_to(first.most), found))
        }
        ("matches", true) => (matching(first, second), result()),
        ("contains", true) => (walk(first).saturating_mul(walk(second)), result()),
        ("startsWith" | "endsWith", true) => (walk(second), result()),
        ("validate", true) => {
            let factor = FORMAT_PATTERN / cost::PATTERN_CHARACTERS_PER_FACTOR;
            (walk(second).saturating_mul(factor), result())
        }
        ("containsIP", true) => (walk(Size::of(2 * ADDRESS)) + parsed(call, second), result()),
        ("containsCIDR", true) => {
            let own = walk(Size::of(2 * ADDRESS)) + walk(Size::of(ADDRESS)) + 1;
            (own.saturating_add(parsed(call, second)), result())
        }
        ("format", true) => (walk(first), result()),
        ("bytes", false) => {
            (walk(first), Sized::holding(Size::up_to(first.most.saturating_mul(4))))
        }
        ("string", false) if takes_text => (walk(first), args[0].clone()),
        ("string", false) => (1, Sized::holding(Size::up_to(SCALAR_TEXT))),
        ("strings.quote", false) => {
            (walk(first), Sized::holding(first.times(Size::of(2)).plus(Size::of(2))))
        }
        ("@in", false) if call.overloads.iter().any(|known| is_in_list(known)) => {
            (second.most, result())
        }
        ("_+_", false) if takes_list => {
            let made = match empty(&call.args) {
                // An empty list has no parts to speak of.
                Some(other) => args[other].clone(),
                None => args[0].either(&args[1]),
            };
            (1, made.with_size(first.plus(second)))
        }
        ("_+_", false) if takes_text => {
            let made = first.plus(second);
            (walk(made), Sized::holding(made))
        }
        ("_==_" | "_!=_", false) => (cost::text(first.most.min(second.most)), result()),
        ("_<_" | "_<=_" | "_>_" | "_>=_", false) if takes_text => {
            (cost::text(first.most.min(second.most)).max(1), result())
        }
        ("sets.contains" | "sets.intersects", false) => {
            (first.times(second).most.saturating_add(1), result())
        }
        ("sets.equivalent", false) => {
            (first.times(second).times(Size::of(2)).most.saturating_add(1), result())
        }
        ("dyn", false) => (1, args[0].clone()),
        ("slice" | "reverse" | "sort", true) => {
            (first.most.saturating_add(1), args[0].with_size(Size::up_to(first.most)))
        }
        ("distinct", true) => {
            (first.times(first).most.saturating_add(1), args[0].with_size(Size::up_to(first.most)))
        }
        ("flatten", true) => {
            let inner = args[0].element();
            let count = first.times(inner.size());
            (
                count.most.saturating_add(1),
                Sized::of_parts(Size::up_to(count.most), inner.element()),
            )
        }
        ("lists.range", false) => {
            let count = call.args.first().and_then(whole).map_or(Size::UNKNOWN, Size::of);
            (count.most.saturating_add(1), Sized::of_parts(count, Sized::holding(Size::ONE)))
        }
        _ => (1, result()),
    }
}

/// What comparing an element costs beside one.
fn element_walk(list: &Sized) -> u64 {
    let element = list.element();
    match element.shape() {
        None | Some(ShapeKind::String | ShapeKind::Bytes) => walk(element.size()),
        _ => 0,
    }
}

/// A text that is read as an address first.
fn parsed(call: &Call, text: Size) -> u64 {
    let is_text = |known: &&'static Overload| matches!(known.params.get(1), Some(Type::String));
    if call.overloads.iter().any(is_text) { walk(text) } else { 0 }
}

fn is_in_list(known: &Overload) -> bool {
    matches!(known.params.get(1), Some(Type::List(_)))
}

/// The other argument than a literal without elements.
fn empty(args: &[Expr]) -> Option<usize> {
    let is_empty = |arg: &Expr| matches!(&arg.kind, Kind::List(items) if items.is_empty());
    match args {
        [a, _] if is_empty(a) => Some(1),
        [_, b] if is_empty(b) => Some(0),
        _ => None,
    }
}

fn whole(expr: &Expr) -> Option<u64> {
    match &expr.kind {
        Kind::Literal(Value::Int(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// A text with parts replaced.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let most = match from.least {
        // Between all characters.
        0 => text.most.saturating_add(1).saturating_mul(to.most).saturating_add(text.most),
        least if to.most <= least => text.most,
        least => text.most.div_ceil(least).saturating_mul(to.most),
    };
    let least = match from.most {
        0 => text.least.saturating_add(1).saturating_mul(to.least).saturating_add(text.least),
        most if most <= to.least => text.least,
        most => text.least.div_ceil(most).saturating_mul(to.least),
    };
    Size { least, most }
}

/// A result whose size only its type tells, or that is one of the arguments.
fn result(call: &Call, args: &[Sized]) -> Sized {
    let mut any: Option<Sized> = None;
    for overload in &call.overloads {
        let made = match &overload.result {
            Type::String | Type::Bytes | Type::List(_) | Type::Map(..) | Type::Dyn => {
                Sized::default()
            }
            Type::Param(_) => picked(overload, args),
            Type::Optional(inner) if matches!(**inner, Type::Param(_)) => picked(overload, args),
            Type::Optional(inner) if !matches!(**inner, Type::Bool | Type::Int) => Sized::default(),
            _ => Sized::holding(Size::ONE),
        };
        any = Some(any.map_or_else(|| made.clone(), |any| any.either(&made)));
    }
    any.unwrap_or_default()
}

/// An argument, or an element of one: optionals are as large as what they hold.
fn picked(overload: &Overload, args: &[Sized]) -> Sized {
    let mut any: Option<Sized> = None;
    for (param, arg) in overload.params.iter().zip(args) {
        let made = match param {
            Type::List(_) => arg.element(),
            Type::Param(_) | Type::Optional(_) => arg.clone(),
            _ => continue,
        };
        any = Some(any.map_or_else(|| made.clone(), |any| any.either(&made)));
    }
    any.unwrap_or_default()
}
