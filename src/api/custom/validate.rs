//! Validation of objects by their schema, with go-openapi's texts, which users and tools know
//! (k8s.io/kube-openapi/pkg/validation, as apiextensions-apiserver turns it into field errors).

use serde_json::{Map, Value};

use super::format;
use super::schema::{Checks, List, Schema, child};
use crate::api::field::{FieldError, FieldErrorKind, Path};

/// Most errors that are told of one object.
const MAX_ERRORS: usize = 100;

/// All that is wrong with a whole object.
pub fn validate(schema: &Schema, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    Validator { errors: &mut errors }.node(schema, value, None);
    errors.truncate(MAX_ERRORS);
    errors
}

struct Validator<'a> {
    errors: &'a mut Vec<FieldError>,
}

fn text(path: Option<&Path>) -> String {
    path.map(ToString::to_string).unwrap_or_default()
}

/// A number as Go prints it: without a fraction that is not there.
fn number(value: f64) -> String {
    format!("{value}")
}

fn length(count: usize) -> u64 {
    count as u64
}

/// The name of a value's JSON type.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_integer(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_integer(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

impl Validator<'_> {
    fn node(&mut self, schema: &Schema, value: &Value, path: Option<&Path>) {
        if self.errors.len() >= MAX_ERRORS || value.is_null() && schema.nullable {
            return;
        }
        if !self.has_type(schema, value, path) {
            return;
        }
        self.checks(&schema.checks, value, path);
        match value {
            Value::Object(map) => self.object(schema, map, path),
            Value::Array(items) => self.list(schema, items, path),
            _ => {}
        }
    }

    fn has_type(&mut self, schema: &Schema, value: &Value, path: Option<&Path>) -> bool {
        let found = type_of(value);
        let (fits, wanted) = match schema.type_name.as_str() {
            "" if schema.int_or_string => (matches!(found, "integer" | "string"), "integer,string"),
            "" => (true, ""),
            "number" => (matches!(found, "integer" | "number"), "number"),
            wanted => (found == wanted, wanted),
        };
        if !fits {
            let at = text(path);
            let detail = format!("{at} in body must be of type {wanted}: {found:?}");
            self.add(FieldErrorKind::TypeInvalid, path, &Value::from(found), detail);
        }
        fits
    }

    fn object(&mut self, schema: &Schema, map: &Map<String, Value>, path: Option<&Path>) {
        for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
            let at = child(path, name);
            self.push(FieldErrorKind::Required, at.to_string(), String::new(), String::new());
        }
        if schema.embedded {
            for name in ["apiVersion", "kind"] {
                if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                    let at = child(path, name);
                    let detail = "must not be empty".to_string();
                    self.push(FieldErrorKind::Required, at.to_string(), String::new(), detail);
                }
            }
        }
        for (name, value) in map {
            let at = child(path, name);
            if let Some(known) = schema.field(name) {
                self.node(known, value, Some(&at));
            }
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], path: Option<&Path>) {
        let Some(path) = path else { return };
        if let Some(item) = &schema.items {
            for (index, value) in items.iter().enumerate() {
                self.node(item, value, Some(&path.index(index)));
            }
        }
        let mut seen: Vec<Value> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let identity = match &schema.list {
                List::Atomic => return,
                List::Set => item.clone(),
                List::Map(keys) => {
                    let value = |key: &String| Some((key.clone(), item.get(key)?.clone()));
                    Value::Object(keys.iter().filter_map(value).collect())
                }
            };
            if seen.contains(&identity) {
                let at = path.index(index);
                self.add(FieldErrorKind::Duplicate, Some(&at), &identity, String::new());
            } else {
                seen.push(identity);
            }
        }
    }

    fn checks(&mut self, checks: &Checks, value: &Value, path: Option<&Path>) {
        if !checks.enumeration.is_empty() && !checks.enumeration.contains(value) {
            let known: Vec<String> = checks.enumeration.iter().map(Value::to_string).collect();
            let detail = format!("supported values: {}", known.join(", "));
            self.add(FieldErrorKind::NotSupported, path, value, detail);
        }
        match value {
            Value::String(string) => self.string(checks, string, path),
            Value::Number(n) => self.number(checks, n.as_f64().unwrap_or_default(), value, path),
            Value::Array(items) => {
                let count = length(items.len());
                if let Some(most) = checks.max_items.filter(|most| count > *most) {
                    self.too_many(count, most, path);
                }
                if let Some(least) = checks.min_items.filter(|least| count < *least) {
                    let what = format!("should have at least {least} items");
                    self.invalid(&Value::from(count), path, &what);
                }
            }
            Value::Object(map) => {
                let count = length(map.len());
                if let Some(most) = checks.max_properties.filter(|most| count > *most) {
                    self.too_many(count, most, path);
                }
                if let Some(least) = checks.min_properties.filter(|least| count < *least) {
                    let what = format!("should have at least {least} properties");
                    self.invalid(&Value::from(count), path, &what);
                }
            }
            _ => {}
        }
        self.junctors(checks, value, path);
    }

    fn string(&mut self, checks: &Checks, string: &str, path: Option<&Path>) {
        let value = Value::from(string);
        let count = length(string.chars().count());
        if let Some(least) = checks.min_length.filter(|least| count < *least) {
            self.invalid(&value, path, &format!("should be at least {least} chars long"));
        }
        if let Some(most) = checks.max_length.filter(|most| count > *most) {
            let detail = format!("may not be more than {most} bytes");
            self.push(FieldErrorKind::TooLong, text(path), String::new(), detail);
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|p| !p.is_match(string)) {
            self.invalid(&value, path, &format!("should match '{pattern}'"));
        }
        if !format::fits(&checks.format, string) {
            let what = format!("must be of type {}: {string:?}", checks.format);
            self.invalid(&value, path, &what);
        }
    }

    fn number(&mut self, checks: &Checks, n: f64, value: &Value, path: Option<&Path>) {
        if let Some(least) = checks.minimum {
            let (good, word) = match checks.exclusive_minimum {
                true => (n > least, "greater than"),
                false => (n >= least, "greater than or equal to"),
            };
            if !good {
                self.invalid(value, path, &format!("should be {word} {}", number(least)));
            }
        }
        if let Some(most) = checks.maximum {
            let (good, word) = match checks.exclusive_maximum {
                true => (n < most, "less than"),
                false => (n <= most, "less than or equal to"),
            };
            if !good {
                self.invalid(value, path, &format!("should be {word} {}", number(most)));
            }
        }
        if let Some(factor) = checks.multiple_of
            && (n / factor).fract() != 0.0
        {
            self.invalid(value, path, &format!("should be a multiple of {}", number(factor)));
        }
        let in_range = match checks.format.as_str() {
            "int32" => (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&n),
            _ => true,
        };
        if !in_range {
            let what = format!("must be of type {}: {value}", checks.format);
            self.invalid(value, path, &what);
        }
    }

    fn junctors(&mut self, checks: &Checks, value: &Value, path: Option<&Path>) {
        for schema in &checks.all_of {
            self.node(schema, value, path);
        }
        let fit = |schemas: &[Schema]| schemas.iter().filter(|s| fits(s, value, path)).count();
        let at = text(path);
        let mut told = Vec::new();
        if !checks.any_of.is_empty() && fit(&checks.any_of) == 0 {
            told.push(format!("{at:?} must validate at least one schema (anyOf)"));
        }
        if !checks.one_of.is_empty() {
            match fit(&checks.one_of) {
                1 => {}
                count => {
                    let found = match count {
                        0 => "Found none valid".to_string(),
                        count => format!("Found {count} valid alternatives"),
                    };
                    told.push(format!(
                        "{at:?} must validate one and only one schema (oneOf). {found}"
                    ));
                }
            }
        }
        if checks.not.as_deref().is_some_and(|not| fits(not, value, path)) {
            told.push(format!("{at:?} must not validate the schema (not)"));
        }
        for detail in told {
            self.add(FieldErrorKind::Invalid, path, value, detail);
        }
    }

    fn too_many(&mut self, count: u64, most: u64, path: Option<&Path>) {
        let detail = format!("must have at most {most} items");
        self.push(FieldErrorKind::TooMany, text(path), count.to_string(), detail);
    }

    /// `spec.name in body should …`.
    fn invalid(&mut self, value: &Value, path: Option<&Path>, what: &str) {
        let detail = format!("{} in body {what}", text(path));
        self.add(FieldErrorKind::Invalid, path, value, detail);
    }

    fn add(&mut self, kind: FieldErrorKind, path: Option<&Path>, value: &Value, detail: String) {
        self.push(kind, text(path), value.to_string(), detail);
    }

    fn push(&mut self, kind: FieldErrorKind, field: String, value: String, detail: String) {
        let field = if field.is_empty() { "<nil>".into() } else { field };
        self.errors.push(FieldError { kind, field, value, detail });
    }
}

fn fits(schema: &Schema, value: &Value, path: Option<&Path>) -> bool {
    let mut errors = Vec::new();
    Validator { errors: &mut errors }.node(schema, value, path);
    errors.is_empty()
}
