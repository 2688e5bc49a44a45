//! Walks over values side by side with their shape: which fields a value has, what changed between
//! two, how one is merged into another, and what goes when nobody owns it any more. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{FieldSet, Step};
use super::shape::{Form, Shape};

/// Deeper values are refused: nothing of Kubernetes is nested so far, and walks are recursive.
pub const MAX_DEPTH: usize = 128;

/// What changed.
#[derive(Debug, Default)]
pub struct Changes {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// A value as the walks see it.
enum Seen<'a> {
    Leaf,
    Object(&'a Map<String, Value>),
    /// The elements by what tells them apart, in their order.
    List(Vec<(Step, &'a Value)>),
}

/// Values that do not fit their shape, and lists with duplicate elements, are one value.
fn see<'a>(shape: &Shape, value: &'a Value) -> Seen<'a> {
    match (shape.form(), value) {
        (Form::Object, Value::Object(map)) => Seen::Object(map),
        (Form::Set, Value::Array(items)) => {
            distinct(items.iter().map(|item| (Step::value(item), item)).collect())
        }
        (Form::Keyed(keys), Value::Array(items)) => {
            let steps = items.iter().map(|item| Some((shape.step_of(item, &keys).ok()?, item)));
            steps.collect::<Option<Vec<_>>>().map_or(Seen::Leaf, distinct)
        }
        _ => Seen::Leaf,
    }
}

fn distinct(items: Vec<(Step, &Value)>) -> Seen<'_> {
    let mut steps: Vec<&Step> = items.iter().map(|(step, _)| step).collect();
    steps.sort();
    let twice = steps.windows(2).any(|pair| pair[0] == pair[1]);
    if twice { Seen::Leaf } else { Seen::List(items) }
}

/// The places of containers that are one value.
pub fn atomics(shape: &Shape, value: &Value, path: &str, found: &mut Vec<String>) {
    match (shape.form(), value) {
        (Form::Object, Value::Object(map)) => {
            for (name, value) in map {
                atomics(&shape.field(name).0, value, &format!("{path}.{name}"), found);
            }
        }
        (Form::Keyed(_), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                atomics(&shape.element(), item, &format!("{path}[{index}]"), found);
            }
        }
        (Form::Set, Value::Array(_)) => {}
        (_, Value::Object(_) | Value::Array(_)) => found.push(path.to_string()),
        _ => {}
    }
}

/// Refuses what cannot be applied: elements without their keys, or twice.
///
/// # Errors
/// A message that names the place.
pub fn check(shape: &Shape, value: &Value, path: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("{path}: nested deeper than {MAX_DEPTH} levels"));
    }
    match (shape.form(), value) {
        (Form::Object, Value::Object(map)) => map.iter().try_for_each(|(name, value)| {
            check(&shape.field(name).0, value, &format!("{path}.{name}"), depth + 1)
        }),
        (Form::Set, Value::Array(items)) => {
            let steps = items.iter().map(|item| Ok(Step::value(item)));
            check_steps(steps, path)
        }
        (Form::Keyed(keys), Value::Array(items)) => {
            let steps = items.iter().enumerate().map(|(index, item)| {
                shape.step_of(item, &keys).map_err(|key| {
                    format!(
                        "{path}: element {index}: associative list with keys has an element that \
                         omits key field {key:?} (and doesn't have default value)"
                    )
                })
            });
            check_steps(steps, path)?;
            let element = shape.element();
            items.iter().enumerate().try_for_each(|(index, item)| {
                check(&element, item, &format!("{path}[{index}]"), depth + 1)
            })
        }
        _ => Ok(()),
    }
}

fn check_steps(
    steps: impl Iterator<Item = Result<Step, String>>,
    path: &str,
) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for step in steps {
        let step = step?;
        let text = format!("{path}: duplicate entries for key {step}");
        if !seen.insert(step) {
            return Err(text);
        }
    }
    Ok(())
}

/// The fields that a value has: its leaves, the elements of its lists, its empty containers.
pub fn fields(shape: &Shape, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match see(shape, value) {
        Seen::Leaf => {}
        Seen::Object(map) => {
            for (name, value) in map {
                let (shape, declared) = shape.field(name);
                let step = Step::field(name);
                let is_leaf = matches!(see(&shape, value), Seen::Leaf);
                if is_leaf || is_empty_container(value) || !declared {
                    set.members.insert(step.clone());
                }
                add_below(&mut set, step, fields(&shape, value));
            }
        }
        Seen::List(items) => {
            let element = shape.element();
            for (step, value) in items {
                set.members.insert(step.clone());
                add_below(&mut set, step, fields(&element, value));
            }
        }
    }
    set
}

/// The same with every container on the way, as of a value that was not there at all before.
fn everything(shape: &Shape, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    let children: Vec<(Step, Shape, &Value)> = match see(shape, value) {
        Seen::Leaf => Vec::new(),
        Seen::Object(map) => map
            .iter()
            .map(|(name, value)| (Step::field(name), shape.field(name).0, value))
            .collect(),
        Seen::List(items) => {
            items.into_iter().map(|(step, value)| (step, shape.element(), value)).collect()
        }
    };
    for (step, shape, value) in children {
        set.members.insert(step.clone());
        add_below(&mut set, step, everything(&shape, value));
    }
    set
}

fn add_below(set: &mut FieldSet, step: Step, below: FieldSet) {
    if !below.is_empty() {
        set.children.insert(step, below);
    }
}

/// What is different in `new`.
pub fn compare(shape: &Shape, old: &Value, new: &Value) -> Changes {
    let mut changes = Changes::default();
    compare_at(shape, old, new, &mut Vec::new(), &mut changes);
    changes
}

fn compare_at(
    shape: &Shape,
    old: &Value,
    new: &Value,
    path: &mut Vec<Step>,
    changes: &mut Changes,
) {
    match (see(shape, old), see(shape, new)) {
        (Seen::Object(old), Seen::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let (shape, declared) = shape.field(name);
                let stays = declared && shape.is_always_there();
                path.push(Step::field(name));
                compare_child(&shape, stays, old.get(name), new.get(name), path, changes);
                path.pop();
            }
        }
        (Seen::List(old), Seen::List(new)) => {
            let element = shape.element();
            let before: BTreeMap<&Step, &Value> = old.iter().map(|(s, v)| (s, *v)).collect();
            let after: BTreeMap<&Step, &Value> = new.iter().map(|(s, v)| (s, *v)).collect();
            let steps: std::collections::BTreeSet<&Step> =
                before.keys().chain(after.keys()).copied().collect();
            for step in steps {
                path.push(step.clone());
                let (old, new) = (before.get(step).copied(), after.get(step).copied());
                compare_child(&element, false, old, new, path, changes);
                path.pop();
            }
        }
        _ if old == new => {}
        _ => changes.modified.insert(path),
    }
}

/// One side may lack the child. What appears is told with everything in it; what is always there to
/// Go, by what is in it alone.
fn compare_child(
    shape: &Shape,
    always_there: bool,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Step>,
    changes: &mut Changes,
) {
    let nothing = match old.or(new) {
        Some(Value::Array(_)) => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    };
    let (value, into) = match (old, new) {
        (Some(old), Some(new)) => return compare_at(shape, old, new, path, changes),
        (Some(one), None) | (None, Some(one))
            if always_there && !matches!(see(shape, one), Seen::Leaf) =>
        {
            let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
            return compare_at(shape, old, new, path, changes);
        }
        (None, Some(new)) => (new, &mut changes.added),
        (Some(old), None) => (old, &mut changes.removed),
        (None, None) => return,
    };
    into.insert(path);
    let grown = std::mem::take(into);
    *into = grown.union(&nested(path, everything(shape, value)));
}

fn nested(path: &[Step], set: FieldSet) -> FieldSet {
    path.iter().rev().fold(set, |below, step| {
        let children =
            if below.is_empty() { BTreeMap::new() } else { [(step.clone(), below)].into() };
        FieldSet { members: Default::default(), children }
    })
}

/// `live` with everything that `wanted` says. Lists have the order of `wanted`; what only `live` has
/// keeps its place among them.
pub fn merge(shape: &Shape, live: &Value, wanted: &Value) -> Value {
    match (see(shape, live), see(shape, wanted)) {
        (Seen::Object(live), Seen::Object(wanted)) => {
            let mut merged = live.clone();
            for (name, value) in wanted {
                let shape = shape.field(name).0;
                let value = match live.get(name) {
                    Some(live) => merge(&shape, live, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Seen::List(live), Seen::List(wanted)) => merge_lists(shape, &live, &wanted),
        _ => wanted.clone(),
    }
}

fn merge_lists(shape: &Shape, live: &[(Step, &Value)], wanted: &[(Step, &Value)]) -> Value {
    let element = shape.element();
    let before: BTreeMap<&Step, &Value> = live.iter().map(|(s, v)| (s, *v)).collect();
    let after: BTreeMap<&Step, &Value> = wanted.iter().map(|(s, v)| (s, *v)).collect();
    let mut merged = Vec::with_capacity(live.len() + wanted.len());
    let mut rest = live.iter().peekable();
    for (step, value) in wanted {
        // What only the live list has stays before what it stood before.
        if let Some(own) = before.get(step) {
            let ahead = rest.clone().any(|(other, _)| other == step);
            while ahead && let Some((other, kept)) = rest.next_if(|(other, _)| other != step) {
                if !after.contains_key(other) {
                    merged.push((*kept).clone());
                }
            }
            rest.next_if(|(other, _)| other == step);
            merged.push(merge(&element, own, value));
        } else {
            while let Some((_, kept)) = rest.next_if(|(other, _)| !after.contains_key(other)) {
                merged.push((*kept).clone());
            }
            merged.push((*value).clone());
        }
    }
    merged.extend(rest.filter(|(step, _)| !after.contains_key(step)).map(|(_, v)| (*v).clone()));
    Value::Array(merged)
}

/// Takes out of `value` what `last` has and `others` have nothing of. Containers that become empty
/// by it go too.
pub fn prune(shape: &Shape, value: &mut Value, last: &FieldSet, others: &FieldSet) {
    let none = FieldSet::default();
    let steps = last.members.iter().chain(last.children.keys());
    let steps: std::collections::BTreeSet<&Step> = steps.collect();
    let form = shape.form();
    for step in steps {
        let Some(position) = find(shape, &form, value, step) else { continue };
        if last.members.contains(step) && !others.touches(step) {
            position.remove(value);
            continue;
        }
        let (Some(below), Some((shape, child))) =
            (last.children.get(step), position.get(shape, value))
        else {
            continue;
        };
        let had = !is_empty_container(child);
        let mut below = below.clone();
        // An element that stays keeps what tells it apart.
        if let Form::Keyed(keys) = &form {
            below.members.retain(|step| !matches!(step, Step::Field(name) if keys.contains(name)));
        }
        prune(&shape, child, &below, others.children.get(step).unwrap_or(&none));
        if had && is_empty_container(child) && !others.touches(step) {
            position.remove(value);
        }
    }
}

fn is_empty_container(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Where a step leads in a value.
enum Position {
    Name(String),
    Index(usize),
}

fn find(shape: &Shape, form: &Form, value: &Value, step: &Step) -> Option<Position> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) if *form == Form::Object => {
            map.contains_key(name).then(|| Position::Name(name.clone()))
        }
        (Step::Value(_), Value::Array(items)) if *form == Form::Set => {
            items.iter().position(|item| Step::value(item) == *step).map(Position::Index)
        }
        (Step::Key(_), Value::Array(items)) => {
            let Form::Keyed(keys) = form else { return None };
            let same = |item: &Value| shape.step_of(item, keys).is_ok_and(|found| found == *step);
            items.iter().position(same).map(Position::Index)
        }
        _ => None,
    }
}

impl Position {
    fn get<'a, 'v>(
        &self,
        shape: &Shape<'a>,
        value: &'v mut Value,
    ) -> Option<(Shape<'a>, &'v mut Value)> {
        match (self, value) {
            (Position::Name(name), Value::Object(map)) => {
                Some((shape.field(name).0, map.get_mut(name)?))
            }
            (Position::Index(index), Value::Array(items)) => {
                Some((shape.element(), items.get_mut(*index)?))
            }
            _ => None,
        }
    }

    fn remove(&self, value: &mut Value) {
        match (self, value) {
            (Position::Name(name), Value::Object(map)) => {
                map.remove(name);
            }
            (Position::Index(index), Value::Array(items)) => {
                items.remove(*index);
            }
            _ => {}
        }
    }
}
