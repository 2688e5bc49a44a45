//! The tree of an expression. Macros are nodes of their own, so that their cost and their treatment
//! of errors are in one place.

use std::sync::Arc;

use super::functions::Overload;
use super::value::Value;

/// How deep an expression may nest: parsing, checking and evaluating recurse as deep as the tree.
pub const MAX_DEPTH: u16 = 100;

#[derive(Clone, Debug)]
pub struct Expr {
    /// Of the token that it is told at.
    pub offset: usize,
    /// The longest way to a leaf.
    pub depth: u16,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Literal(Value),
    Ident(Arc<str>),
    /// `a.b`, or `a.?b`.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        optional: bool,
    },
    /// `has(a.b)`.
    Has {
        operand: Box<Expr>,
        field: Arc<str>,
    },
    /// `a[b]`, or `a[?b]`.
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    Call(Box<Call>),
    /// `a && b && c`, or with `||`.
    Logic {
        all: bool,
        terms: Vec<Expr>,
    },
    /// `a ? b : c`.
    Choice(Box<[Expr; 3]>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    /// `Object.spec{replicas: 3}`.
    Object {
        name: Arc<str>,
        fields: Vec<Field>,
    },
    Fold(Box<Fold>),
    /// `cel.bind(name, value, body)`, and `a.optMap(name, body)`.
    Bind(Box<Bind>),
}

/// A function or an operator. The receiver of a member function is the first argument.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: Arc<str>,
    pub member: bool,
    pub args: Vec<Expr>,
    /// What the arguments may fit; set by the check.
    pub overloads: Vec<&'static Overload>,
}

/// An element of a list; an optional one is left out if there is no value.
#[derive(Clone, Debug)]
pub struct Element {
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub offset: usize,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// What a macro makes of the elements of a list or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// `map`, `filter` and `transformList`.
    List,
    /// `transformMap`: the keys stay.
    MapValues,
    /// `transformMapEntry`: each element gives a map of its own.
    MapEntries,
    /// `sortBy`.
    SortBy,
}

/// `range.all(var, body)` and its like; with two variables, the first is a key or index.
#[derive(Clone, Debug)]
pub struct Fold {
    pub kind: FoldKind,
    pub range: Expr,
    pub vars: Vec<Arc<str>>,
    /// Only elements that fulfil it count.
    pub filter: Option<Expr>,
    pub body: Expr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindKind {
    /// `cel.bind`.
    Plain,
    /// `optMap`: the result is wrapped.
    OptMap,
    /// `optFlatMap`: the result is an optional already.
    OptFlatMap,
}

#[derive(Clone, Debug)]
pub struct Bind {
    pub kind: BindKind,
    pub var: Arc<str>,
    pub value: Expr,
    pub body: Expr,
}

impl Expr {
    /// `a.b.c` as text, if it is nothing but names.
    pub fn path(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, optional: false } => {
                Some(format!("{}.{field}", operand.path()?))
            }
            _ => None,
        }
    }

    /// The first name of a path.
    pub fn head(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            Kind::Select { operand, .. } => operand.head(),
            _ => None,
        }
    }

    /// The text, if it is nothing but a text.
    pub fn text(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Literal(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}
