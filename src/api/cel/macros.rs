//! Macros: calls that are no functions, since they see expressions rather than values
//! (cel-go's parser/macro.go, ext/comprehensions.go, ext/bindings.go, cel/library.go).

use std::sync::Arc;

use super::ast::{Bind, BindKind, Call, Expr, Fold, FoldKind, Kind};
use super::lexer::Issue;
use super::parser::{above, call, deepest};

/// A member macro: its name, how many arguments it has, how many of these are variables, and what
/// it makes.
const FOLDS: &[(&str, usize, usize, FoldKind)] = &[
    ("all", 2, 1, FoldKind::All),
    ("exists", 2, 1, FoldKind::Exists),
    ("exists_one", 2, 1, FoldKind::ExistsOne),
    ("existsOne", 2, 1, FoldKind::ExistsOne),
    ("map", 2, 1, FoldKind::List),
    ("map", 3, 1, FoldKind::List),
    ("filter", 2, 1, FoldKind::List),
    ("sortBy", 2, 1, FoldKind::SortBy),
    ("all", 3, 2, FoldKind::All),
    ("exists", 3, 2, FoldKind::Exists),
    ("exists_one", 3, 2, FoldKind::ExistsOne),
    ("existsOne", 3, 2, FoldKind::ExistsOne),
    ("transformList", 3, 2, FoldKind::List),
    ("transformList", 4, 2, FoldKind::List),
    ("transformMap", 3, 2, FoldKind::MapValues),
    ("transformMap", 4, 2, FoldKind::MapValues),
    ("transformMapEntry", 3, 2, FoldKind::MapEntries),
    ("transformMapEntry", 4, 2, FoldKind::MapEntries),
];

/// `f(args)`.
pub fn global(offset: usize, name: Arc<str>, mut args: Vec<Expr>) -> Result<Expr, Issue> {
    if &*name != "has" {
        return call(offset, &name, args);
    }
    let bad = || Issue::new(offset, "invalid argument to has() macro");
    let only = args.pop().filter(|_| args.is_empty()).ok_or_else(bad)?;
    match only.kind {
        Kind::Select { operand, field, optional: false } => {
            above(offset, operand.depth, Kind::Has { operand, field })
        }
        _ => Err(bad()),
    }
}

/// `operand.f(args)`.
pub fn member(
    offset: usize,
    operand: Expr,
    name: Arc<str>,
    args: Vec<Expr>,
) -> Result<Expr, Issue> {
    let path = operand.path();
    if path.as_deref() == Some("cel") && &*name == "bind" && args.len() == 3 {
        return bind(offset, args);
    }
    let opt = match &*name {
        "optMap" => Some(BindKind::OptMap),
        "optFlatMap" => Some(BindKind::OptFlatMap),
        _ => None,
    };
    if let (Some(kind), 2) = (opt, args.len()) {
        let mut args = args.into_iter();
        let (Some(var), Some(body)) = (args.next(), args.next()) else {
            return Err(Issue::new(offset, "two arguments are needed"));
        };
        let var = variable(&var)?;
        let depth = deepest([&operand, &body]);
        let bind = Bind { kind, var, value: operand, body };
        return above(offset, depth, Kind::Bind(Box::new(bind)));
    }
    let row = FOLDS.iter().find(|(known, count, ..)| *known == &*name && *count == args.len());
    match row {
        Some((_, _, vars, kind)) => fold(offset, operand, &name, args, *vars, *kind),
        None => {
            let mut args = args;
            args.insert(0, operand);
            let depth = deepest(&args);
            let call = Call { name, member: true, args, overloads: Vec::new() };
            above(offset, depth, Kind::Call(Box::new(call)))
        }
    }
}

fn variable(expr: &Expr) -> Result<Arc<str>, Issue> {
    match &expr.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(Issue::new(expr.offset, "argument must be a simple name")),
    }
}

fn bind(offset: usize, args: Vec<Expr>) -> Result<Expr, Issue> {
    let depth = deepest(&args);
    let mut args = args.into_iter();
    let (Some(var), Some(value), Some(body)) = (args.next(), args.next(), args.next()) else {
        return Err(Issue::new(offset, "three arguments are needed"));
    };
    let bind = Bind { kind: BindKind::Plain, var: variable(&var)?, value, body };
    above(offset, depth, Kind::Bind(Box::new(bind)))
}

fn fold(
    offset: usize,
    range: Expr,
    name: &str,
    args: Vec<Expr>,
    vars: usize,
    kind: FoldKind,
) -> Result<Expr, Issue> {
    let depth = deepest(args.iter().chain([&range]));
    let names = args[..vars].iter().map(variable).collect::<Result<Vec<_>, _>>()?;
    if names.len() == 2 && names[0] == names[1] {
        return Err(Issue::new(args[1].offset, format!("duplicate variable name: {}", names[1])));
    }
    let mut rest = args.into_iter().skip(vars);
    let (first, second) = (rest.next(), rest.next());
    let missing = || Issue::new(offset, format!("{name} needs an expression"));
    let first = first.ok_or_else(missing)?;
    let (filter, body) = match (name, second) {
        ("filter", _) => {
            let element = Kind::Ident(names[0].clone());
            (Some(first), above(offset, 0, element)?)
        }
        (_, Some(body)) => (Some(first), body),
        (_, None) => (None, first),
    };
    let fold = Fold { kind, range, vars: names, filter, body };
    above(offset, depth, Kind::Fold(Box::new(fold)))
}
