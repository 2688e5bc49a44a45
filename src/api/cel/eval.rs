//! Evaluation: the tree is walked, every step is charged.
//!
//! An error is a value in the sense that `&&` and `||` absorb it where the other side decides; that
//! the cost limit is reached is absorbed by nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;

use super::ast::{Bind, BindKind, Call, Element, Entry, Expr, Field, Kind};
use super::cost::{self, Meter};
use super::lib::authz::Authorizer;
use super::lib::regex::compile;
use super::operand;
use super::value::{Identity, Key, List, MAX_DEPTH, Map, Value};

/// How deep evaluations may recurse: an expression has at most `ast::MAX_DEPTH` levels, but
/// variables may be expressions that use variables.
const MAX_RECURSION: u16 = 200;
/// Patterns that an evaluation remembers.
const MAX_PATTERNS: usize = 32;

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// In cel-go's words.
    #[error("{0}")]
    Failed(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    CallLimit,
    /// Of all expressions together.
    #[error("running out of cost budget")]
    Budget,
}

impl Error {
    pub fn new(text: impl Into<String>) -> Error {
        Error::Failed(text.into())
    }

    /// Whether it ends everything, and is no answer of the expression.
    pub fn is_cost(&self) -> bool {
        !matches!(self, Error::Failed(_))
    }
}

pub fn no_overload() -> Error {
    Error::new("no such overload")
}

/// What an expression's names stand for.
pub trait Variables {
    fn get(&self, name: &str, run: &mut Evaluation<'_>) -> Option<Result<Value, Error>>;
}

pub struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _: &str, _: &mut Evaluation<'_>) -> Option<Result<Value, Error>> {
        None
    }
}

impl Variables for BTreeMap<String, Value> {
    fn get(&self, name: &str, _: &mut Evaluation<'_>) -> Option<Result<Value, Error>> {
        BTreeMap::get(self, name).cloned().map(Ok)
    }
}

/// One evaluation under way.
pub struct Evaluation<'a> {
    pub meter: &'a mut Meter,
    pub authorizer: Option<&'a dyn Authorizer>,
    variables: &'a dyn Variables,
    pub(super) locals: Vec<(Arc<str>, Value)>,
    patterns: HashMap<Arc<str>, Regex>,
    recursion: u16,
}

impl<'a> Evaluation<'a> {
    pub fn new(
        variables: &'a dyn Variables,
        authorizer: Option<&'a dyn Authorizer>,
        meter: &'a mut Meter,
    ) -> Evaluation<'a> {
        Evaluation {
            meter,
            authorizer,
            variables,
            locals: Vec::new(),
            patterns: HashMap::new(),
            recursion: 0,
        }
    }

    /// Without the local names of what is under way.
    pub(super) fn apart<T>(&mut self, evaluate: impl FnOnce(&mut Self) -> T) -> T {
        let locals = std::mem::take(&mut self.locals);
        let result = evaluate(self);
        self.locals = locals;
        result
    }

    pub fn eval(&mut self, expr: &Expr) -> Result<Value, Error> {
        if self.recursion >= MAX_RECURSION {
            return Err(Error::new("expressions of variables nest too deeply"));
        }
        self.recursion += 1;
        let result = self.dispatch(expr);
        self.recursion -= 1;
        let value = result?;
        if value.depth() > MAX_DEPTH {
            return Err(Error::new(format!("values nest deeper than {MAX_DEPTH} levels")));
        }
        Ok(value)
    }

    fn dispatch(&mut self, expr: &Expr) -> Result<Value, Error> {
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Ident(name) => self.name(name),
            Kind::Select { operand, field, optional } => self.select(operand, field, *optional),
            Kind::Has { operand, field } => {
                let value = self.eval(operand)?;
                operand::has(&value, field).map(Value::Bool)
            }
            Kind::Index { operand, index, optional } => {
                let value = self.eval(operand)?;
                let index = self.eval(index)?;
                self.meter.charge(cost::SELECT)?;
                operand::index(&value, &index, *optional)
            }
            Kind::Call(call) => self.call(call),
            Kind::Logic { all, terms } => self.logic(*all, terms),
            Kind::Choice(parts) => {
                let [condition, yes, no] = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(no_overload()),
                }
            }
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Object { name, fields } => self.object(name, fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind(bind) => self.bind(bind),
        }
    }

    fn local(&self, name: &str) -> Option<Value> {
        self.locals.iter().rev().find(|(known, _)| &**known == name).map(|(_, v)| v.clone())
    }

    fn name(&mut self, name: &Arc<str>) -> Result<Value, Error> {
        self.meter.charge(cost::SELECT)?;
        if let Some(value) = self.local(name) {
            return Ok(value);
        }
        let variables = self.variables;
        let found = variables.get(name, self);
        found.unwrap_or_else(|| Err(Error::new(format!("no such attribute(s): {name}"))))
    }

    fn select(&mut self, of: &Expr, field: &Arc<str>, optional: bool) -> Result<Value, Error> {
        self.meter.charge(cost::SELECT)?;
        let value = self.eval(of)?;
        operand::select(&value, field, optional)
    }

    fn call(&mut self, call: &Call) -> Result<Value, Error> {
        let args = call.args.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
        match call.overloads.iter().find(|overload| overload.takes(&args)) {
            Some(overload) => overload.call(self, &args),
            None => Err(no_overload()),
        }
    }

    fn logic(&mut self, all: bool, terms: &[Expr]) -> Result<Value, Error> {
        let mut failed = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(value)) if value == all => {}
                Ok(Value::Bool(value)) => return Ok(Value::Bool(value)),
                Ok(_) => {
                    failed.get_or_insert(no_overload());
                }
                Err(error) if error.is_cost() => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(Value::Bool(all)), Err)
    }

    fn list(&mut self, items: &[Element]) -> Result<Value, Error> {
        self.meter.charge(cost::LIST + cost::text(items.len() as u64))?;
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let value = self.eval(&item.value)?;
            values.extend(wanted(value, item.optional)?);
        }
        Ok(Value::List(List::new(values, Identity::Place)))
    }

    fn map(&mut self, entries: &[Entry]) -> Result<Value, Error> {
        self.meter.charge(cost::MAP + cost::text(entries.len() as u64))?;
        let mut map = BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let value = self.eval(&entry.value)?;
            let Some(value) = wanted(value, entry.optional)? else { continue };
            let Some(key) = Key::of(&key) else {
                return Err(Error::new(format!("unsupported key type: {}", key.type_name())));
            };
            if map.insert(key, value).is_some() {
                return Err(Error::new("Failed with repeated key"));
            }
        }
        Ok(Value::map(map))
    }

    fn object(&mut self, name: &Arc<str>, fields: &[Field]) -> Result<Value, Error> {
        self.meter.charge(cost::OBJECT)?;
        let mut map = BTreeMap::new();
        for field in fields {
            let value = self.eval(&field.value)?;
            if let Some(value) = wanted(value, field.optional)? {
                map.insert(Key::String(field.name.clone()), value);
            }
        }
        Ok(Value::Map(Map::new(map, Some(name.clone()))))
    }

    fn bind(&mut self, bind: &Bind) -> Result<Value, Error> {
        let value = self.eval(&bind.value)?;
        let value = match (bind.kind, value) {
            (BindKind::Plain, value) => value,
            (_, Value::Optional(None)) => return Ok(Value::NONE),
            (_, Value::Optional(Some(inner))) => (*inner).clone(),
            _ => return Err(no_overload()),
        };
        self.locals.push((bind.var.clone(), value));
        let result = self.eval(&bind.body);
        self.locals.pop();
        match bind.kind {
            BindKind::OptMap => result.map(Value::some),
            _ => result,
        }
    }

    /// A compiled pattern; each is compiled once an evaluation.
    pub fn pattern(&mut self, text: &Arc<str>) -> Result<Regex, Error> {
        if let Some(known) = self.patterns.get(text) {
            return Ok(known.clone());
        }
        self.meter.charge(cost::COMPILE_PATTERN)?;
        let pattern = compile(text).map_err(Error::new)?;
        if self.patterns.len() < MAX_PATTERNS {
            self.patterns.insert(text.clone(), pattern.clone());
        }
        Ok(pattern)
    }
}

/// The value of an element; none for an optional one without a value.
fn wanted(value: Value, optional: bool) -> Result<Option<Value>, Error> {
    match (optional, value) {
        (false, value) => Ok(Some(value)),
        (true, Value::Optional(inner)) => Ok(inner.map(|value| (*value).clone())),
        (true, _) => Err(no_overload()),
    }
}
