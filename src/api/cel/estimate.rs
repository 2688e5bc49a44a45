//! What an expression may cost at most, told from its text and from how large the schema lets values
//! be, before anything runs (cel-go's checker/cost.go).
//!
//! The figures are upstream's, to the unit where its tests say them: they decide which definitions
//! a cluster takes. So they follow cel-go's expansion of macros, and count what upstream counts
//! rather than what an evaluation here is charged ([`super::cost`]).

use std::sync::Arc;

use super::ast::{Bind, BindKind, Expr, Fold, FoldKind, Kind};
use super::cost;
use super::estimate_calls::call;
use super::schema::{Shape, ShapeKind};
use super::value::Value;

/// The least and the most elements, entries, characters or bytes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub least: u64,
    pub most: u64,
}

/// What is known of a value's size, and of the sizes of its parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Sized {
    size: Option<Size>,
    shape: Option<Arc<Shape>>,
    /// Of keys or indexes, and of elements.
    parts: Option<Arc<(Sized, Sized)>>,
}

impl Size {
    pub const UNKNOWN: Size = Size { least: 0, most: u64::MAX };
    pub const ONE: Size = Size { least: 1, most: 1 };

    pub fn of(exactly: u64) -> Size {
        Size { least: exactly, most: exactly }
    }

    pub fn up_to(most: u64) -> Size {
        Size { least: 0, most }
    }

    pub fn plus(self, other: Size) -> Size {
        Size {
            least: self.least.saturating_add(other.least),
            most: self.most.saturating_add(other.most),
        }
    }

    pub fn times(self, other: Size) -> Size {
        Size {
            least: self.least.saturating_mul(other.least),
            most: self.most.saturating_mul(other.most),
        }
    }

    pub fn either(self, other: Size) -> Size {
        Size { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}

impl Sized {
    pub fn holding(size: Size) -> Sized {
        Sized { size: Some(size), ..Sized::default() }
    }

    pub fn of_parts(size: Size, part: Sized) -> Sized {
        let parts = Some(Arc::new((Sized::holding(Size::ONE), part)));
        Sized { size: Some(size), parts, ..Sized::default() }
    }

    fn shaped(shape: &Arc<Shape>) -> Sized {
        Sized { shape: Some(shape.clone()), ..Sized::default() }
    }

    pub fn size(&self) -> Size {
        match (self.size, &self.shape) {
            (Some(size), _) => size,
            (None, Some(shape)) => Size::up_to(shape.most),
            (None, None) => Size::UNKNOWN,
        }
    }

    /// Of as many parts as `self`, or fewer, with the same parts.
    pub fn with_size(&self, size: Size) -> Sized {
        Sized { size: Some(size), ..self.clone() }
    }

    pub fn shape(&self) -> Option<&ShapeKind> {
        self.shape.as_deref().map(|shape| &shape.kind)
    }

    pub fn element(&self) -> Sized {
        match (&self.parts, self.shape()) {
            (Some(parts), _) => parts.1.clone(),
            (None, Some(ShapeKind::List { item, .. })) => Sized::shaped(item),
            (None, Some(ShapeKind::Map(values))) => Sized::shaped(values),
            _ => Sized::default(),
        }
    }

    /// Of the name that a macro with one variable gives to an element: of maps, their keys.
    fn key(&self) -> Sized {
        match (&self.parts, self.shape()) {
            (Some(parts), _) => parts.0.clone(),
            // Upstream takes the keys of a schema's map for empty.
            (None, Some(ShapeKind::Map(_))) => Sized::holding(Size::of(0)),
            _ => Sized::holding(Size::ONE),
        }
    }

    fn field(&self, name: &str) -> Sized {
        match self.shape() {
            Some(ShapeKind::Object { fields, .. }) => {
                let known = fields.values().find(|(escaped, _)| &**escaped == name);
                known.map(|(_, shape)| Sized::shaped(shape)).unwrap_or_default()
            }
            // Upstream knows no more of a map's value that is named as a field than its type.
            _ => match self.element() {
                value if value.size() == Size::of(0) => Sized::holding(Size::ONE),
                value => value,
            },
        }
    }

    pub fn either(&self, other: &Sized) -> Sized {
        let parts = match (self.parts.is_some(), other.parts.is_some()) {
            (false, false) => None,
            _ => Some(Arc::new((
                self.key().either(&other.key()),
                self.element().either(&other.element()),
            ))),
        };
        Sized {
            size: Some(self.size().either(other.size())),
            shape: self.shape.clone().or_else(|| other.shape.clone()),
            parts,
        }
    }

    fn is_map(&self) -> bool {
        matches!(self.shape(), Some(ShapeKind::Map(_)))
    }
}

/// The most that an evaluation costs.
pub(super) fn estimate(root: &Expr, variables: &[(&str, Arc<Shape>)]) -> u64 {
    let locals =
        variables.iter().map(|(name, shape)| (Arc::from(*name), Sized::shaped(shape))).collect();
    Estimator { locals }.expr(root).0
}

struct Estimator {
    locals: Vec<(Arc<str>, Sized)>,
}

impl Estimator {
    fn expr(&mut self, expr: &Expr) -> (u64, Sized) {
        match &expr.kind {
            Kind::Literal(value) => (0, literal(value)),
            Kind::Ident(name) => {
                let known = self.locals.iter().rev().find(|(known, _)| known == name);
                (cost::SELECT, known.map(|(_, sized)| sized.clone()).unwrap_or_default())
            }
            Kind::Select { operand, field, .. } => {
                let (cost, of) = self.expr(operand);
                (cost.saturating_add(cost::SELECT), of.field(field))
            }
            Kind::Has { operand, .. } => (self.expr(operand).0, Sized::holding(Size::ONE)),
            Kind::Index { operand, index, .. } => {
                let (cost, of) = self.expr(operand);
                let cost = cost.saturating_add(self.expr(index).0);
                (cost.saturating_add(cost::SELECT), of.element())
            }
            Kind::Call(of) => {
                let mut sum: u64 = 0;
                let mut args = Vec::with_capacity(of.args.len());
                for arg in &of.args {
                    let (cost, sized) = self.expr(arg);
                    sum = sum.saturating_add(cost);
                    args.push(sized);
                }
                let (own, made) = call(of, &args);
                (sum.saturating_add(own), made)
            }
            Kind::Logic { terms, .. } => (self.all(terms), Sized::holding(Size::ONE)),
            Kind::Choice(parts) => {
                let [condition, yes, no] = &**parts;
                let (cost, _) = self.expr(condition);
                let ((yes, a), (no, b)) = (self.expr(yes), self.expr(no));
                (cost.saturating_add(yes.max(no)), a.either(&b))
            }
            Kind::List(items) => {
                let made = items.iter().map(|item| self.expr(&item.value));
                let (cost, part) = joined(made.collect());
                let sized = Sized::of_parts(Size::of(items.len() as u64), part);
                (cost.saturating_add(cost::LIST), sized)
            }
            Kind::Map(entries) => {
                let keys = entries.iter().map(|entry| self.expr(&entry.key)).collect();
                let (keys_cost, key) = joined(keys);
                let values = entries.iter().map(|entry| self.expr(&entry.value)).collect();
                let (values_cost, value) = joined(values);
                let size = Some(Size::of(entries.len() as u64));
                let sized = Sized { size, parts: Some(Arc::new((key, value))), shape: None };
                (keys_cost.saturating_add(values_cost).saturating_add(cost::MAP), sized)
            }
            Kind::Object { fields, .. } => {
                let cost = self.all(fields.iter().map(|field| &field.value));
                (cost.saturating_add(cost::OBJECT), Sized::default())
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind(bind) => self.bind(bind),
        }
    }

    fn all<'a>(&mut self, exprs: impl IntoIterator<Item = &'a Expr>) -> u64 {
        exprs.into_iter().fold(0, |sum: u64, expr| sum.saturating_add(self.expr(expr).0))
    }

    fn fold(&mut self, fold: &Fold) -> (u64, Sized) {
        let (range_cost, range) = self.expr(&fold.range);
        let outside = self.locals.len();
        let is_map = range.is_map() || matches!(fold.range.kind, Kind::Map(_));
        let (key, element) = (range.key(), range.element());
        let only = if is_map { key.clone() } else { element.clone() };
        match &fold.vars[..] {
            [one] => self.locals.push((one.clone(), only.clone())),
            vars => self.locals.extend(vars.iter().cloned().zip([key.clone(), element])),
        }
        let filter = fold.filter.as_ref().map_or(0, |filter| self.expr(filter).0);
        let (body, made) = self.expr(&fold.body);
        self.locals.truncate(outside);
        // Beside the body: names, calls and lists of cel-go's expansion, before, in each round, and
        // after. A macro's filter has the element itself as its body.
        let (before, each, after) = match fold.kind {
            FoldKind::All => (0, 3, 1),
            FoldKind::Exists => (0, 4, 1),
            FoldKind::ExistsOne => (0, 2, 2),
            FoldKind::List => (cost::LIST, 12, 1),
            FoldKind::SortBy => (2 * cost::LIST, 13, 3),
            FoldKind::MapValues => (cost::MAP, 3, 1),
            FoldKind::MapEntries => (cost::MAP, 2, 1),
        };
        let count = range.size();
        let round = filter.saturating_add(body).saturating_add(each);
        let rounds = count.most.saturating_mul(round);
        let cost = range_cost.saturating_add(before).saturating_add(after).saturating_add(rounds);
        let made = match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Sized::holding(Size::ONE),
            FoldKind::List => {
                let least = if fold.filter.is_some() { 0 } else { count.least };
                Sized::of_parts(Size { least, most: count.most }, made)
            }
            FoldKind::SortBy => Sized::of_parts(count, only),
            FoldKind::MapValues => {
                let parts = Some(Arc::new((key, made)));
                Sized { size: Some(count), parts, shape: None }
            }
            FoldKind::MapEntries => {
                let (key, value) = (made.key(), made.element());
                let parts = Some(Arc::new((key, value)));
                Sized { size: Some(count.times(made.size())), parts, shape: None }
            }
        };
        (cost, made)
    }

    fn bind(&mut self, bind: &Bind) -> (u64, Sized) {
        let (value_cost, value) = self.expr(&bind.value);
        self.locals.push((bind.var.clone(), value));
        let (body_cost, made) = self.expr(&bind.body);
        self.locals.pop();
        let own = match bind.kind {
            BindKind::Plain => cost::LIST,
            // `hasValue`, `value`, `optional.of`, a second look at the value, and a bind.
            BindKind::OptMap => value_cost.saturating_add(3 + cost::LIST),
            BindKind::OptFlatMap => value_cost.saturating_add(2 + cost::LIST),
        };
        (value_cost.saturating_add(body_cost).saturating_add(own), made)
    }
}

fn literal(value: &Value) -> Sized {
    let size = match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    };
    Sized::holding(Size::of(size))
}

/// The costs together, and what may be any of the values.
fn joined(made: Vec<(u64, Sized)>) -> (u64, Sized) {
    let mut sum: u64 = 0;
    let mut any: Option<Sized> = None;
    for (cost, sized) in made {
        sum = sum.saturating_add(cost);
        any = Some(any.map_or_else(|| sized.clone(), |any| any.either(&sized)));
    }
    (sum, any.unwrap_or_else(|| Sized::holding(Size::of(0))))
}
