//! The check before anything runs: every name is known, every function has an overload for the
//! types of its arguments. Sets the overloads of calls, and finds functions whose names have dots.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ast::{Bind, BindKind, Call, Expr, Fold, FoldKind, Kind};
use super::env::Env;
use super::functions::{Overload, named};
use super::lexer::Issue;
use super::lib::{regex, time};
use super::types::{Bound, Struct, Type};
use super::value::Value;

/// Names of types, which expressions may compare with `type(x)`.
const TYPE_NAMES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
    "optional_type",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "net.IP",
    "net.CIDR",
    "kubernetes.Quantity",
    "kubernetes.URL",
    "kubernetes.Semver",
];
/// Says what is wrong with a literal.
type Look = fn(&str) -> Result<(), String>;

/// Functions with a pattern, a time or a period as an argument, which is looked at now if it is a
/// literal: the index of that argument.
const LITERALS: &[(&str, usize, Look)] = &[
    ("matches", 1, |text| regex::compile(text).map(drop)),
    ("find", 1, |text| regex::compile(text).map(drop)),
    ("findAll", 1, |text| regex::compile(text).map(drop)),
    ("timestamp", 0, |text| time::parse_timestamp(text).map(drop)),
    ("duration", 0, |text| time::parse_duration(text).map(drop)),
];

pub struct Checked {
    pub output: Type,
    /// The variables that the expression uses.
    pub names: BTreeSet<String>,
    pub issues: Vec<Issue>,
}

pub fn check(root: &mut Expr, env: &Env) -> Checked {
    let mut checker =
        Checker { env, locals: Vec::new(), names: BTreeSet::new(), issues: Vec::new() };
    let output = checker.expr(root);
    Checked { output, names: checker.names, issues: checker.issues }
}

struct Checker<'a> {
    env: &'a Env,
    locals: Vec<(Arc<str>, Type)>,
    names: BTreeSet<String>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    /// Notes a mistake; what follows from it is not looked at.
    fn issue(&mut self, offset: usize, text: String) -> Type {
        self.issues.push(Issue::new(offset, text));
        Type::Dyn
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let offset = expr.offset;
        if let Some(name) = self.type_path(expr) {
            expr.kind = Kind::Literal(Value::Type(name));
        } else if let Some(name) = self.dotted(expr) {
            expr.kind = Kind::Ident(name);
        }
        match &mut expr.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(name) => self.name(&name.clone(), offset),
            Kind::Select { operand, field, optional } => {
                let of = self.expr(operand);
                let found = self.field(&of, field, offset);
                let already = matches!(found, Type::Optional(_));
                let wraps = *optional || matches!(of, Type::Optional(_));
                if wraps && !already { Type::optional(found) } else { found }
            }
            Kind::Has { operand, field } => {
                if let Some(path) = operand.path()
                    && self.env.variable(&format!("{path}.{field}")).is_some()
                {
                    expr.kind = Kind::Literal(Value::Bool(true));
                    return Type::Bool;
                }
                let of = self.expr(operand);
                self.field(&of, field, offset);
                Type::Bool
            }
            Kind::Index { operand, index, optional } => {
                let of = self.expr(operand);
                let by = self.expr(index);
                self.index(&of, &by, *optional, offset)
            }
            Kind::Call(call) => self.call(call, offset),
            Kind::Logic { terms, .. } => {
                for term in terms.iter_mut() {
                    let found = self.expr(term);
                    self.wants(&Type::Bool, &found, term.offset);
                }
                Type::Bool
            }
            Kind::Choice(parts) => {
                let [condition, yes, no] = &mut **parts;
                let found = self.expr(condition);
                self.wants(&Type::Bool, &found, condition.offset);
                let (yes, no) = (self.expr(yes), self.expr(no));
                yes.join(&no).unwrap_or_else(|| {
                    self.no_overload("_?_:_", &[Type::Bool, yes.clone(), no.clone()], offset)
                })
            }
            Kind::List(items) => {
                let types = items.iter_mut().map(|item| {
                    let found = self.expr(&mut item.value);
                    (item.value.offset, self.element(found, item.optional, item.value.offset))
                });
                let types: Vec<_> = types.collect();
                Type::list(self.same(types))
            }
            Kind::Map(entries) => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for entry in entries.iter_mut() {
                    keys.push((entry.key.offset, self.expr(&mut entry.key)));
                    let found = self.expr(&mut entry.value);
                    let at = entry.value.offset;
                    values.push((at, self.element(found, entry.optional, at)));
                }
                Type::map(self.same(keys), self.same(values))
            }
            Kind::Object { name, fields } => {
                let name = name.clone();
                let of = self.object(&name, offset);
                for field in fields.iter_mut() {
                    let found = self.expr(&mut field.value);
                    let found = self.element(found, field.optional, field.offset);
                    let wanted = match &of {
                        Type::Object(fields) => match fields.field(&field.name) {
                            Some(wanted) => wanted,
                            None => self.undefined(&field.name, field.offset),
                        },
                        _ => Type::Dyn,
                    };
                    self.wants(&wanted, &found, field.offset);
                }
                of
            }
            Kind::Fold(fold) => self.fold(fold, offset),
            Kind::Bind(bind) => self.bind(bind),
        }
    }

    fn is_variable(&self, name: &str) -> bool {
        self.locals.iter().any(|(known, _)| &**known == name) || self.env.variable(name).is_some()
    }

    /// The name of a type, if the expression is one.
    fn type_path(&self, expr: &Expr) -> Option<Arc<str>> {
        if !matches!(expr.kind, Kind::Ident(_) | Kind::Select { .. }) {
            return None;
        }
        if self.is_variable(expr.head()?) {
            return None;
        }
        let path = expr.path()?;
        TYPE_NAMES.iter().find(|known| **known == path).map(|known| Arc::from(*known))
    }

    /// The name of a variable with dots in it, if the expression is one.
    fn dotted(&self, expr: &Expr) -> Option<Arc<str>> {
        if !matches!(expr.kind, Kind::Select { .. }) || !self.env.has_dots() {
            return None;
        }
        let head = expr.head()?;
        let is_local = self.locals.iter().any(|(known, _)| known == head);
        let path = expr.path().filter(|_| !is_local)?;
        self.env.variable(&path).map(|_| path.into())
    }

    fn name(&mut self, name: &str, offset: usize) -> Type {
        if let Some((_, known)) = self.locals.iter().rev().find(|(known, _)| &**known == name) {
            return known.clone();
        }
        match self.env.variable(name) {
            Some(known) => {
                self.names.insert(name.to_string());
                known.clone()
            }
            None => {
                let text = format!("undeclared reference to '{name}' (in container '')");
                self.issue(offset, text)
            }
        }
    }

    fn undefined(&mut self, field: &str, offset: usize) -> Type {
        self.issue(offset, format!("undefined field '{field}'"))
    }

    fn field(&mut self, of: &Type, field: &str, offset: usize) -> Type {
        match of {
            Type::Dyn => Type::Dyn,
            Type::Optional(inner) => self.field(&inner.clone(), field, offset),
            Type::Object(fields) => match fields.field(field) {
                Some(found) => found,
                None => self.undefined(field, offset),
            },
            Type::Map(key, value) if Type::String.fits(key, &mut Bound::default()) => {
                (**value).clone()
            }
            other => {
                let text = format!("type '{other}' does not support field selection");
                self.issue(offset, text)
            }
        }
    }

    fn index(&mut self, of: &Type, by: &Type, optional: bool, offset: usize) -> Type {
        let mut bound = Bound::default();
        let found = match of {
            Type::Optional(inner) => {
                return match self.index(&inner.clone(), by, true, offset) {
                    found @ Type::Optional(_) => found,
                    found => Type::optional(found),
                };
            }
            Type::Dyn => Type::Dyn,
            Type::List(item) if by.fits(&Type::Int, &mut bound) => (**item).clone(),
            Type::Map(key, value) if by.fits(key, &mut bound) => (**value).clone(),
            _ => self.no_overload("_[_]", &[of.clone(), by.clone()], offset),
        };
        if optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, call: &mut Call, offset: usize) -> Type {
        self.namespaced(call);
        let args: Vec<Type> = call.args.iter_mut().map(|arg| self.expr(arg)).collect();
        let known = named(&call.name, call.member);
        if known.is_empty() {
            let text = format!("undeclared reference to '{}' (in container '')", call.name);
            return self.issue(offset, text);
        }
        let mut result: Option<Type> = None;
        let mut fitting: Vec<&'static Overload> = Vec::new();
        for overload in known {
            let Some(found) = overload.result_of(&args) else { continue };
            fitting.push(overload);
            result = Some(match result {
                None => found,
                Some(before) if before.to_string() == found.to_string() => before,
                Some(_) => Type::Dyn,
            });
        }
        call.overloads = fitting;
        let Some(result) = result else {
            return match call.member {
                true => self.no_member_overload(&call.name, &args, offset),
                false => self.no_overload(&call.name, &args, offset),
            };
        };
        for (name, index, look) in LITERALS {
            let text = call.args.get(*index).and_then(Expr::text);
            if &*call.name == *name
                && let Some(text) = text
                && let Err(why) = look(text)
            {
                let at = call.args[*index].offset;
                return self.issue(at, format!("invalid {name} argument: {why}"));
            }
        }
        result
    }

    /// `sets.contains(a, b)` is a function with a dot in its name, unless `sets` is a variable.
    fn namespaced(&mut self, call: &mut Call) {
        if !call.member {
            return;
        }
        let Some(receiver) = call.args.first() else { return };
        let (Some(path), Some(head)) = (receiver.path(), receiver.head()) else { return };
        let name = format!("{path}.{}", call.name);
        if !self.is_variable(head) && !named(&name, false).is_empty() {
            call.args.remove(0);
            call.member = false;
            call.name = name.into();
        }
    }

    fn wants(&mut self, wanted: &Type, found: &Type, offset: usize) {
        if !found.fits(wanted, &mut Bound::default()) {
            self.issue(offset, format!("expected type '{wanted}' but found '{found}'"));
        }
    }

    /// The type of an element that is written with or without a question mark.
    fn element(&mut self, found: Type, optional: bool, offset: usize) -> Type {
        match (optional, found) {
            (false, found) => found,
            (true, Type::Optional(inner)) => (*inner).clone(),
            (true, Type::Dyn) => Type::Dyn,
            (true, found) => {
                let text = format!("expected type 'optional_type(dyn)' but found '{found}'");
                self.issue(offset, text)
            }
        }
    }

    /// The one type that all elements have.
    fn same(&mut self, types: Vec<(usize, Type)>) -> Type {
        let mut all: Option<Type> = None;
        for (offset, found) in types {
            all = Some(match all {
                None => found,
                Some(before) => match before.join(&found) {
                    Some(both) => both,
                    None => {
                        let text = format!("expected type '{before}' but found '{found}'");
                        self.issue(offset, text)
                    }
                },
            });
        }
        // Nothing fits everything.
        all.unwrap_or(Type::Null)
    }

    fn object(&mut self, name: &str, offset: usize) -> Type {
        if self.env.makes_objects() {
            if name == "JSONPatch" {
                let text = || Type::String;
                let fields =
                    [("op", text()), ("path", text()), ("from", text()), ("value", Type::Dyn)];
                return Struct::of(name, &fields);
            }
            if name == "Object" || name.starts_with("Object.") {
                return Type::Object(Arc::new(AnyFields(name.into())));
            }
        }
        self.issue(offset, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn fold(&mut self, fold: &mut Fold, offset: usize) -> Type {
        let range = self.expr(&mut fold.range);
        let (key, value) = match &range {
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::List(item) => (Type::Int, (**item).clone()),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be \
                     list, map, or dynamic)"
                );
                return self.issue(offset, text);
            }
        };
        let only = if matches!(range, Type::Map(..)) { key.clone() } else { value.clone() };
        let outside = self.locals.len();
        match &fold.vars[..] {
            [one] => self.locals.push((one.clone(), only.clone())),
            vars => {
                let types = [key.clone(), value];
                self.locals.extend(vars.iter().cloned().zip(types));
            }
        }
        if let Some(filter) = &mut fold.filter {
            let found = self.expr(filter);
            self.wants(&Type::Bool, &found, filter.offset);
        }
        let body = self.expr(&mut fold.body);
        self.locals.truncate(outside);
        match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => {
                self.wants(&Type::Bool, &body, fold.body.offset);
                Type::Bool
            }
            FoldKind::List => Type::list(body),
            FoldKind::SortBy => Type::list(only),
            FoldKind::MapValues => Type::map(key, body),
            FoldKind::MapEntries => match body {
                found @ (Type::Map(..) | Type::Dyn) => found,
                found => {
                    let text = format!("expected type 'map(dyn, dyn)' but found '{found}'");
                    self.issue(fold.body.offset, text)
                }
            },
        }
    }

    fn bind(&mut self, bind: &mut Bind) -> Type {
        let value = self.expr(&mut bind.value);
        let inner = match (bind.kind, value) {
            (BindKind::Plain, value) => value,
            (_, Type::Optional(inner)) => (*inner).clone(),
            (_, Type::Dyn) => Type::Dyn,
            (_, found) => {
                let text = format!("expected type 'optional_type(dyn)' but found '{found}'");
                return self.issue(bind.value.offset, text);
            }
        };
        self.locals.push((bind.var.clone(), inner));
        let body = self.expr(&mut bind.body);
        self.locals.pop();
        match bind.kind {
            BindKind::Plain => body,
            BindKind::OptMap => Type::optional(body),
            BindKind::OptFlatMap => match body {
                found @ (Type::Optional(_) | Type::Dyn) => found,
                found => {
                    let text = format!("expected type 'optional_type(dyn)' but found '{found}'");
                    self.issue(bind.body.offset, text)
                }
            },
        }
    }

    fn no_overload(&mut self, name: &str, args: &[Type], offset: usize) -> Type {
        let text = format!("found no matching overload for '{name}' applied to '{}'", list(args));
        self.issue(offset, text)
    }

    fn no_member_overload(&mut self, name: &str, args: &[Type], offset: usize) -> Type {
        let (receiver, rest) = args.split_first().map_or((&Type::Dyn, args), |(a, b)| (a, b));
        let args = list(rest);
        let text =
            format!("found no matching overload for '{name}' applied to '{receiver}.{args}'");
        self.issue(offset, text)
    }
}

fn list(types: &[Type]) -> String {
    let texts: Vec<String> = types.iter().map(Type::to_string).collect();
    format!("({})", texts.join(", "))
}

/// The fields of an object that is being made: any, with any value. What the object's schema says is
/// told when it is written.
#[derive(Debug)]
struct AnyFields(String);

impl super::types::Fields for AnyFields {
    fn name(&self) -> &str {
        &self.0
    }

    fn field(&self, _: &str) -> Option<Type> {
        Some(Type::Dyn)
    }
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        Value::Type(_) => Type::Type,
        _ => Type::Dyn,
    }
}
