//! Sets of fields, and their form on the wire (`FieldsV1` of metav1.ManagedFieldsEntry).
//!
//! ```text
//!   {"f:spec": {"f:replicas": {}, "f:ports": {"k:{\"port\":80}": {".": {}, "f:name": {}}}}}
//! ```
//!
//! `f:` is a field, `k:` an element of a list by its keys, `v:` an element of a set by its value,
//! `.` the container itself. Source: sigs.k8s.io/structured-merge-diff, fieldpath.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

/// One step from a container to what is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Field(String),
    /// The keys of a list's element as compact JSON with sorted names.
    Key(String),
    /// An element of a set as compact JSON.
    Value(String),
}

/// Paths of fields; a path may be a member though paths below it are, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub members: BTreeSet<Step>,
    pub children: BTreeMap<Step, FieldSet>,
}

impl Step {
    pub fn field(name: &str) -> Step {
        Step::Field(name.to_string())
    }

    pub fn key(keys: &Map<String, Value>) -> Step {
        let sorted: BTreeMap<&String, &Value> = keys.iter().collect();
        Step::Key(serde_json::to_string(&sorted).unwrap_or_default())
    }

    pub fn value(value: &Value) -> Step {
        Step::Value(value.to_string())
    }

    fn parse(text: &str) -> Option<Step> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "f" => Step::Field(rest.to_string()),
            "k" => Step::key(serde_json::from_str::<Map<String, Value>>(rest).ok().as_ref()?),
            "v" => Step::value(&serde_json::from_str::<Value>(rest).ok()?),
            _ => return None,
        })
    }

    fn wire(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(keys) => format!("k:{keys}"),
            Step::Value(value) => format!("v:{value}"),
        }
    }
}

/// As conflicts name it: `.spec`, `[name="web"]`, `["value"]`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Value(value) => write!(f, "[={value}]"),
            Step::Key(keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs = keys.iter().map(|(name, value)| format!("{name}={value}"));
                write!(f, "[{}]", pairs.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(FieldSet::is_empty)
    }

    /// Whether the set has this path or one below it.
    pub fn touches(&self, step: &Step) -> bool {
        self.members.contains(step)
            || self.children.get(step).is_some_and(|below| !below.is_empty())
    }

    /// Whether this very path is a member.
    pub fn has(&self, path: &[Step]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|below| below.has(rest)),
        }
    }

    pub fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// Takes a path and everything below it out.
    pub fn remove(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.remove(last);
                self.children.remove(last);
            }
            [first, rest @ ..] => {
                if let Some(below) = self.children.get_mut(first) {
                    below.remove(rest);
                    if below.is_empty() {
                        self.children.remove(first);
                    }
                }
            }
        }
    }

    /// Only what is at or below one of the paths stays.
    pub fn keep_only(&mut self, path: &[Step]) {
        let [first, rest @ ..] = path else { return };
        self.members.retain(|step| step == first && rest.is_empty());
        self.children.retain(|step, _| step == first);
        if let Some(below) = self.children.get_mut(first) {
            below.keep_only(rest);
        }
    }

    pub fn union(mut self, other: &FieldSet) -> FieldSet {
        self.members.extend(other.members.iter().cloned());
        for (step, below) in &other.children {
            let own = self.children.remove(step).unwrap_or_default();
            self.children.insert(step.clone(), own.union(below));
        }
        self
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.intersection(&other.members).cloned().collect();
        let both = self.children.iter().filter_map(|(step, below)| {
            let common = below.intersection(other.children.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        FieldSet { members, children: both.collect() }
    }

    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.difference(&other.members).cloned().collect();
        let left = self.children.iter().filter_map(|(step, below)| {
            let left = match other.children.get(step) {
                Some(taken) => below.difference(taken),
                None => below.clone(),
            };
            (!left.is_empty()).then(|| (step.clone(), left))
        });
        FieldSet { members, children: left.collect() }
    }

    /// Every member as text, in order.
    pub fn paths(&self) -> Vec<String> {
        fn walk(set: &FieldSet, prefix: &str, out: &mut Vec<String>) {
            let steps: BTreeSet<&Step> = set.members.iter().chain(set.children.keys()).collect();
            for step in steps {
                let path = format!("{prefix}{step}");
                if set.members.contains(step) {
                    out.push(path.clone());
                }
                if let Some(below) = set.children.get(step) {
                    walk(below, &path, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(self, "", &mut out);
        out
    }

    /// The form of the wire.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for step in &self.members {
            map.insert(step.wire(), Value::Object(Map::new()));
        }
        for (step, below) in self.children.iter().filter(|(_, below)| !below.is_empty()) {
            let mut inner = match below.to_value() {
                Value::Object(inner) => inner,
                _ => Map::new(),
            };
            if self.members.contains(step) {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(step.wire(), Value::Object(inner));
        }
        Value::Object(map)
    }

    /// Reads the form of the wire; `None` for what is none. What a later release may add (indexes,
    /// unknown prefixes) is left out, as upstream does.
    pub fn from_value(value: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        for (name, below) in value.as_object()? {
            let below = below.as_object()?;
            let Some(step) = Step::parse(name) else { continue };
            if below.is_empty() || below.contains_key(".") {
                set.members.insert(step.clone());
            }
            let rest: Map<String, Value> = below
                .iter()
                .filter(|(k, _)| *k != ".")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            if !rest.is_empty() {
                set.children.insert(step, FieldSet::from_value(&Value::Object(rest))?);
            }
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_wire_form_goes_both_ways() {
        let wire = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                "f:finalizers": {"v:\"a\"": {}}}});
        let set = FieldSet::from_value(&wire).unwrap();
        assert_eq!(set.to_value(), wire);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.finalizers[=\"a\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
        assert!(FieldSet::from_value(&json!({"f:a": 1})).is_none());
        // Keys in another order are the same element.
        let other = json!({"k:{\"protocol\":\"TCP\",\"port\":80}": {}});
        let same = FieldSet::from_value(&other).unwrap();
        assert!(
            same.members.contains(
                set.children[&Step::field("spec")].children[&Step::field("ports")]
                    .children
                    .keys()
                    .next()
                    .unwrap()
            )
        );
    }

    #[test]
    fn sets_are_joined_cut_and_subtracted() {
        let set = |value: Value| FieldSet::from_value(&value).unwrap();
        let one = set(json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}));
        let two = set(json!({"f:b": {"f:c": {}}, "f:e": {}}));
        assert_eq!(one.intersection(&two), set(json!({"f:b": {"f:c": {}}})));
        assert_eq!(one.difference(&two), set(json!({"f:a": {}, "f:b": {"f:d": {}}})));
        let both = set(json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}, "f:e": {}}));
        assert_eq!(one.clone().union(&two), both);
        assert!(one.difference(&one).is_empty());
        let mut only = both.clone();
        only.keep_only(&[Step::field("b"), Step::field("d")]);
        assert_eq!(only, set(json!({"f:b": {"f:d": {}}})));
        let mut less = both;
        less.remove(&[Step::field("b")]);
        assert_eq!(less, set(json!({"f:a": {}, "f:e": {}})));
    }
}
