//! Rules in CEL applied to an object
//! (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go).
//!
//! A rule about a part that did not change is not evaluated again, unless it compares with the old
//! one: who changes something else need not mend what older rules let pass (KEP-4008). All rules of
//! an object share a budget.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::cel_rules::{NodeRules, Rule};
use super::schema::{List, Schema, child};
use crate::api::cel::convert::{escape, typed};
use crate::api::cel::cost::{Budget, OBJECT_BUDGET};
use crate::api::cel::{Error, Evaluation, Value, Variables};
use crate::api::field::{FieldError, FieldErrorKind, Path};

/// The longest message that an expression may make, in bytes.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// All that the rules refuse; `old` is the stored object on updates.
pub fn validate(
    rules: &NodeRules,
    schema: &Schema,
    object: &Json,
    old: Option<&Json>,
) -> Vec<FieldError> {
    let Some(shape) = rules.shape.as_deref() else { return Vec::new() };
    let mut walk = Walk { budget: Budget::new(OBJECT_BUDGET), errors: Vec::new() };
    let value = typed(shape, object);
    let old_value = old.map(|old| typed(shape, old));
    let at = At { json: object, old, value: &value, old_value: old_value.as_ref() };
    let _ = walk.node(rules, schema, at, None);
    walk.errors
}

/// A part of the object, and the part of the stored one that it is the successor of.
#[derive(Clone, Copy)]
struct At<'a> {
    json: &'a Json,
    old: Option<&'a Json>,
    value: &'a Value,
    old_value: Option<&'a Value>,
}

struct Walk {
    budget: Budget,
    errors: Vec<FieldError>,
}

/// No more rules are looked at.
struct Stop;

struct Variable<'a> {
    value: &'a Value,
    old: Option<Value>,
}

impl Variables for Variable<'_> {
    fn get(&self, name: &str, _: &mut Evaluation<'_>) -> Option<Result<Value, Error>> {
        match name {
            "self" => Some(Ok(self.value.clone())),
            "oldSelf" => self.old.clone().map(Ok),
            _ => None,
        }
    }
}

impl Walk {
    fn node(
        &mut self,
        rules: &NodeRules,
        schema: &Schema,
        at: At,
        path: Option<&Path>,
    ) -> Result<(), Stop> {
        if at.json.is_null() {
            return Ok(());
        }
        let unchanged = !rules.rules.is_empty() && at.old == Some(at.json);
        for rule in &rules.rules {
            if !unchanged || rule.uses_old_self {
                self.rule(rule, at, path)?;
            }
        }
        for part in &rules.all_of {
            self.node(part, schema, at, path)?;
        }
        match at.json {
            Json::Object(map) => {
                for (name, json) in map {
                    let (below, schema) = match (rules.fields.get(name), &rules.values) {
                        (Some(below), _) => (below, schema.properties.get(name)),
                        (None, Some(below)) => (&**below, schema.field(name)),
                        (None, None) => continue,
                    };
                    let Some(schema) = schema else { continue };
                    let is_field = rules.fields.contains_key(name);
                    let here = match is_field {
                        true => child(path, name),
                        false => path.unwrap_or(&Path::ROOT).key(name),
                    };
                    self.field(below, schema, at, (name, json, is_field), &here)?;
                }
            }
            Json::Array(items) => {
                if let (Some(below), Some(schema_), Some(path)) =
                    (&rules.items, &schema.items, path)
                {
                    self.items(below, (schema, schema_), at, items, path)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn field(
        &mut self,
        rules: &NodeRules,
        schema: &Schema,
        at: At,
        (name, json, is_field): (&str, &Json, bool),
        path: &Path,
    ) -> Result<(), Stop> {
        let old = at.old.and_then(|old| old.get(name));
        let key = if is_field { escape(name) } else { Some(name.into()) };
        let part = |of: &Value| match (of, &key) {
            (Value::Map(map), Some(key)) => map.field(key).cloned(),
            _ => None,
        };
        let make = |json: &Json| rules.shape.as_deref().map(|shape| typed(shape, json));
        let Some(value) = part(at.value).or_else(|| make(json)) else { return Ok(()) };
        let old_value = at.old_value.and_then(part).or_else(|| old.and_then(make));
        let below = At { json, old, value: &value, old_value: old_value.as_ref() };
        self.node(rules, schema, below, Some(path))
    }

    fn items(
        &mut self,
        rules: &NodeRules,
        (list, item): (&Schema, &Schema),
        at: At,
        items: &[Json],
        path: &Path,
    ) -> Result<(), Stop> {
        let Value::List(values) = at.value else { return Ok(()) };
        // Elements of lists that are maps have successors; others have none.
        let mut known: HashMap<String, usize> = HashMap::new();
        let old_items = at.old.and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let identity = |item: &Json| match &list.list {
            List::Map(keys) => {
                let parts: Vec<_> = keys.iter().map(|key| item.get(key)).collect();
                serde_json::to_string(&parts).ok()
            }
            _ => None,
        };
        for (index, old) in old_items.iter().enumerate() {
            if let Some(identity) = identity(old) {
                known.entry(identity).or_insert(index);
            }
        }
        let old_values = match at.old_value {
            Some(Value::List(list)) => list.items(),
            _ => &[],
        };
        for (index, (json, value)) in items.iter().zip(values.items()).enumerate() {
            let before = identity(json).and_then(|identity| known.get(&identity).copied());
            let old = before.and_then(|before| old_items.get(before));
            let old_value = before.and_then(|before| old_values.get(before));
            let below = At { json, old, value, old_value };
            self.node(rules, item, below, Some(&path.index(index)))?;
        }
        Ok(())
    }

    fn rule(&mut self, rule: &Rule, at: At, path: Option<&Path>) -> Result<(), Stop> {
        if rule.uses_old_self && at.old_value.is_none() && !rule.optional_old_self {
            return Ok(());
        }
        let old = at.old_value.cloned();
        let old = match rule.optional_old_self {
            true => Some(old.map_or(Value::NONE, Value::some)),
            false => old,
        };
        let variables = Variable { value: at.value, old };
        let here = path.map(ToString::to_string).unwrap_or_default();
        let shown = rule.message.strip_prefix("failed rule: ").unwrap_or(&rule.message);
        let fail = |walk: &mut Walk, detail: String| {
            walk.push(FieldErrorKind::Invalid, here.clone(), at.json, detail);
        };
        match rule.program.run(&variables, None, &mut self.budget) {
            Ok(Value::Bool(true)) => return Ok(()),
            Ok(_) => {}
            Err(Error::Failed(why)) if why == "no such overload" => {
                let detail = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro \
                     signature for rule: {shown}"
                );
                fail(self, detail);
                return Ok(());
            }
            Err(Error::Failed(why)) => {
                fail(self, format!("{why} evaluating rule: {shown}"));
                return Ok(());
            }
            Err(error @ Error::CallLimit) => {
                let detail = format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds \
                     limit for rule: {shown}"
                );
                fail(self, detail);
                return Err(Stop);
            }
            Err(Error::Budget) => {
                let detail = "validation failed due to running out of cost budget, no further \
                              validation rules will be run";
                fail(self, detail.into());
                return Err(Stop);
            }
        }
        let message = self.message(rule, &variables);
        let kind = match rule.reason.as_str() {
            "FieldValueForbidden" => FieldErrorKind::Forbidden,
            "FieldValueRequired" => FieldErrorKind::Required,
            "FieldValueDuplicate" => FieldErrorKind::Duplicate,
            _ => FieldErrorKind::Invalid,
        };
        let between = match (here.is_empty(), rule.field_path.starts_with('[')) {
            (true, _) | (_, true) => "",
            _ if rule.field_path.is_empty() => "",
            _ => ".",
        };
        let field = format!("{here}{between}{}", rule.field_path);
        match kind {
            FieldErrorKind::Forbidden | FieldErrorKind::Required => {
                self.push(kind, field, &Json::Null, message);
            }
            FieldErrorKind::Duplicate => self.push(kind, field, at.json, String::new()),
            _ => self.push(kind, field, at.json, message),
        }
        Ok(())
    }

    /// What an expression says is wrong, if it says something that can be shown on a line.
    fn message(&mut self, rule: &Rule, variables: &Variable) -> String {
        let program = rule.message_program.as_ref();
        let made = program.map(|program| program.run(variables, None, &mut self.budget));
        if let Some(Ok(Value::String(text))) = made {
            let text = text.trim();
            if !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n') {
                return text.to_string();
            }
        }
        rule.message.clone()
    }

    /// Objects and lists are not shown as values.
    fn push(&mut self, kind: FieldErrorKind, field: String, value: &Json, detail: String) {
        let field = if field.is_empty() { "<nil>".into() } else { field };
        let value = match value {
            Json::Object(_) | Json::Array(_) | Json::Null => String::new(),
            other => other.to_string(),
        };
        self.errors.push(FieldError { kind, field, value, detail });
    }
}
