//! What becomes of every field of a pod's spec: one table, used by validation, that decides for
//! each field whether the node agent and the scheduler honour it, whether the user is warned that
//! it has no effect, or whether the object is refused. No field is ignored in silence: a test
//! compares the table with the schema, and a field that the table does not know is refused.
//!
//! Says nothing about the values of honoured fields; that is [`super::pod_validation`]'s.

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Map, Value};

use super::pod_field_rows::POD_SPEC;
use crate::api::field::{Errors, Path};

/// Most warnings that one spec may raise; each becomes a header line.
pub const MAX_WARNINGS: usize = 32;

/// What happens to a field that is set.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Has the effect that Kubernetes documents.
    Honoured,
    /// Nothing is missing whatever it is set to; the row's text says why.
    Harmless,
    /// Stored, without effect: the text goes to the user as a `Warning:` header.
    Warned,
    /// The object is refused with 422, the field's path and the text.
    Refused,
    /// Looked into: the fields of the object, or of each object of the list.
    Within(&'static [Row]),
    /// A map whose keys are the rows' names.
    Keys(&'static [Row]),
}

/// One field of a type. `*` stands for every other key of a map.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub field: &'static str,
    pub verdict: Verdict,
    pub text: &'static str,
    /// Values (as text) that ask for nothing: defaults and their like.
    pub unless: &'static [&'static str],
}

pub const fn honoured(field: &'static str) -> Row {
    Row { field, verdict: Verdict::Honoured, text: "", unless: &[] }
}

pub const fn harmless(field: &'static str, text: &'static str) -> Row {
    Row { field, verdict: Verdict::Harmless, text, unless: &[] }
}

pub const fn warned(field: &'static str, text: &'static str) -> Row {
    Row { field, verdict: Verdict::Warned, text, unless: &[] }
}

pub const fn refused(field: &'static str, text: &'static str) -> Row {
    Row { field, verdict: Verdict::Refused, text, unless: &[] }
}

pub const fn within(field: &'static str, rows: &'static [Row]) -> Row {
    Row { field, verdict: Verdict::Within(rows), text: "", unless: &[] }
}

pub const fn keys(field: &'static str, rows: &'static [Row]) -> Row {
    Row { field, verdict: Verdict::Keys(rows), text: "", unless: &[] }
}

impl Row {
    /// The same row, silent for these values.
    pub const fn unless(mut self, values: &'static [&'static str]) -> Row {
        self.unless = values;
        self
    }

    /// Null, empty text, lists and objects ask for nothing: Go clients send them for fields that
    /// nobody set.
    fn asks_for_something(&self, value: &Value) -> bool {
        let quiet = |text: &str| self.unless.contains(&text);
        match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty() && !quiet(text),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty() || !self.empty_is_unset(),
            other => !quiet(&other.to_string()),
        }
    }

    /// An empty object such as `hostPath: {}` still chooses that volume.
    fn empty_is_unset(&self) -> bool {
        !matches!(self.verdict, Verdict::Refused) || self.unless.contains(&"{}")
    }
}

/// Adds an error for each refused field and a warning for each one without effect.
pub fn check(spec: &PodSpec, path: &Path, errors: &mut Errors, warnings: &mut Vec<String>) {
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => check_rendered(&fields, path, errors, warnings),
        _ => errors.invalid(path, "", "cannot be written as JSON"),
    }
}

/// [`check`] of a spec that is rendered already.
pub fn check_rendered(
    spec: &Map<String, Value>,
    path: &Path,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) {
    Check { errors, warnings }.fields(POD_SPEC, spec, path, false);
}

struct Check<'a> {
    errors: &'a mut Errors,
    warnings: &'a mut Vec<String>,
}

impl Check<'_> {
    fn fields(&mut self, rows: &[Row], fields: &Map<String, Value>, path: &Path, is_map: bool) {
        for (name, value) in fields {
            let row = rows.iter().find(|r| r.field == name || r.field == "*");
            let path = if is_map { path.key(name) } else { path.child(name) };
            match row {
                Some(row) => self.field(row, value, &path),
                None => self.errors.forbidden(&path, "is not known to this release"),
            }
        }
    }

    fn field(&mut self, row: &Row, value: &Value, path: &Path) {
        if !row.asks_for_something(value) {
            return;
        }
        match row.verdict {
            Verdict::Honoured | Verdict::Harmless => {}
            Verdict::Warned if self.warnings.len() < MAX_WARNINGS => {
                self.warnings.push(format!("{path}: {}", row.text));
            }
            Verdict::Warned => {}
            Verdict::Refused => self.errors.forbidden(path, row.text),
            Verdict::Within(rows) | Verdict::Keys(rows) => {
                let is_map = matches!(row.verdict, Verdict::Keys(_));
                match value {
                    Value::Object(fields) => self.fields(rows, fields, path, is_map),
                    Value::Array(items) => {
                        for (i, item) in items.iter().enumerate() {
                            if let Value::Object(fields) = item {
                                self.fields(rows, fields, &path.index(i), is_map);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
