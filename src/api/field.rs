//! Field paths and the collector of validation errors, with upstream's texts
//! (k8s.io/apimachinery/pkg/util/validation/field).

use std::fmt;

/// A path such as `spec.containers[0].name`; cheap to extend, rendered only for errors.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Root,
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub field: String,
    /// The bad value as JSON (strings in quotes), if the kind shows it.
    pub value: String,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Duplicate,
    NotFound,
    TypeInvalid,
}

/// Collects the errors of one object, so that the user sees all of them at once.
#[derive(Default, Debug)]
pub struct Errors(Vec<FieldError>);

/// Upstream shows no more than this many; ours keeps a bounded number as well.
const MAX_ERRORS: usize = 100;

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path { parent: None, part: Part::Root };

    /// The field `name` of the root object.
    pub fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, part: Part::Name(name) }
    }

    pub fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Name(name) }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), part: Part::Index(index) }
    }

    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Root => Ok(()),
            Part::Name(name) => match self.parent {
                None | Some(Path { parent: None, part: Part::Root }) => f.write_str(name),
                Some(_) => write!(f, ".{name}"),
            },
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl Errors {
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.add(FieldErrorKind::Required, path, String::new(), detail);
    }

    pub fn invalid(&mut self, path: &Path, value: impl serde::Serialize, detail: &str) {
        self.add(FieldErrorKind::Invalid, path, json(value), detail);
    }

    /// Of an object that is better not shown whole.
    pub fn invalid_whole(&mut self, path: &Path, detail: &str) {
        self.add(FieldErrorKind::Invalid, path, String::new(), detail);
    }

    /// `supported` are the values that may be used.
    pub fn not_supported(&mut self, path: &Path, value: impl serde::Serialize, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        self.add(FieldErrorKind::NotSupported, path, json(value), &detail);
    }

    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.add(FieldErrorKind::Forbidden, path, String::new(), detail);
    }

    pub fn duplicate(&mut self, path: &Path, value: impl serde::Serialize) {
        self.add(FieldErrorKind::Duplicate, path, json(value), "");
    }

    /// Where the value alone does not say what must be unique.
    pub fn duplicate_why(&mut self, path: &Path, value: impl serde::Serialize, detail: &str) {
        self.add(FieldErrorKind::Duplicate, path, json(value), detail);
    }

    pub fn not_found(&mut self, path: &Path, value: impl serde::Serialize) {
        self.add(FieldErrorKind::NotFound, path, json(value), "");
    }

    pub fn too_long(&mut self, path: &Path, max_bytes: usize) {
        let detail = format!("may not be more than {max_bytes} bytes");
        self.add(FieldErrorKind::TooLong, path, String::new(), &detail);
    }

    pub fn too_many(&mut self, path: &Path, count: usize, max: usize) {
        let detail = format!("must have at most {max} items");
        self.add(FieldErrorKind::TooMany, path, count.to_string(), &detail);
    }

    fn add(&mut self, kind: FieldErrorKind, path: &Path, value: String, detail: &str) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError { kind, field: path.to_string(), value, detail: detail.into() });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}

fn json(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_default()
}

impl FieldErrorKind {
    /// The reason of a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn title(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::NotFound => "Not found",
        }
    }
}

impl FieldError {
    /// The text without the field's path, as a Status cause has it.
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_string();
        if !self.value.is_empty() {
            text.push_str(": ");
            text.push_str(&self.value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_as_upstream() {
        let mut errors = Errors::default();
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        errors.required(&containers.index(0).child("name"), "");
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.containers[0].name: Required value",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }
}
