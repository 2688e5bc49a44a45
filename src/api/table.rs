//! What kinds print in tables: columns, and the cells that many share.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;

/// A column of a `Table` (meta.k8s.io/v1). Priority 0 is always shown, 1 with `-o wide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyColumn<'a> {
    pub name: &'a str,
    /// `string`, `integer`, `date`…
    pub kind: &'a str,
    /// `name` for the first column.
    pub format: &'a str,
    pub description: &'a str,
    pub priority: i32,
}

/// A column of a built-in kind.
pub type Column = AnyColumn<'static>;

pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};

pub const AGE: Column = Column::new("Age", "string", "Time since the object was created.");

/// The columns of kinds that say nothing else.
pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, kind: &'static str, description: &'static str) -> Column {
        Column { name, kind, format: "", description, priority: 0 }
    }

    /// A column that `-o wide` shows.
    pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
        Column { name, kind, format: "", description, priority: 1 }
    }
}

pub fn name(meta: &ObjectMeta) -> Value {
    Value::from(meta.name.clone().unwrap_or_default())
}

/// The age as people read it (`5m`, `3d4h`).
pub fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    Value::from(since(meta.creation_timestamp.as_ref(), now))
}

/// The time since `time`, `<unknown>` without one.
pub fn since(time: Option<&Time>, now: Timestamp) -> String {
    match time {
        Some(time) => super::duration::human(now.duration_since(time.0).as_secs()),
        None => "<unknown>".into(),
    }
}
