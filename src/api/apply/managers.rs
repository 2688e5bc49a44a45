//! Who owns which fields of an object: `metadata.managedFields`, read and written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::{FieldSet, Step};

/// Entries of `Update` managers that an object keeps at most; the oldest are joined beyond it
/// (upstream's DefaultMaxUpdateManagers).
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that the oldest entries are joined to.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// What tells the entries of an object apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

/// What one manager owns, and when that last changed (RFC 3339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub fields: FieldSet,
    pub time: String,
}

/// Every manager of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(pub BTreeMap<Manager, Owned>);

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

impl Managers {
    /// Reads `metadata.managedFields`; `None` for what is not in its form, an empty table for a
    /// list of one empty entry (how users clear it).
    pub fn read(entries: &Value) -> Option<Managers> {
        let entries = entries.as_array()?;
        let mut table = BTreeMap::new();
        for entry in entries {
            if entry.as_object().is_some_and(Map::is_empty) {
                continue;
            }
            let text = |name: &str| {
                entry.get(name).and_then(Value::as_str).unwrap_or_default().to_string()
            };
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let manager = Manager {
                name: text("manager"),
                operation,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
            };
            let fields = match entry.get("fieldsV1") {
                Some(fields) => FieldSet::from_value(fields)?,
                None => FieldSet::default(),
            };
            table.insert(manager, Owned { fields, time: text("time") });
        }
        Some(Managers(table))
    }

    /// The list of entries, oldest first; empty ones are left out.
    pub fn write(&self) -> Value {
        let mut entries: Vec<(&Manager, &Owned)> =
            self.0.iter().filter(|(_, owned)| !owned.fields.is_empty()).collect();
        // Upstream's order: applied ones first, then by time, then by name.
        entries.sort_by(|(a, left), (b, right)| {
            (a.operation, &left.time, &a.name).cmp(&(b.operation, &right.time, &b.name))
        });
        entries.into_iter().map(|(manager, owned)| entry(manager, owned)).collect()
    }

    /// Joins the oldest `Update` entries of a version until few enough are left.
    pub fn cap(&mut self) {
        let updates = |table: &BTreeMap<Manager, Owned>| {
            let mut found: Vec<(String, Manager)> = table
                .iter()
                .filter(|(manager, _)| manager.operation == Operation::Update)
                .map(|(manager, owned)| (owned.time.clone(), manager.clone()))
                .collect();
            found.sort();
            found
        };
        let found = updates(&self.0);
        let Some(excess) = found.len().checked_sub(MAX_UPDATE_MANAGERS).filter(|n| *n > 0) else {
            return;
        };
        // Joining two leaves one, so one more goes than there are too many.
        for (_, manager) in found.into_iter().take(excess + 1) {
            let Some(owned) = self.0.remove(&manager) else { continue };
            let ancient = Manager { name: ANCIENT.into(), ..manager };
            let joined = self
                .0
                .entry(ancient)
                .or_insert_with(|| Owned { fields: FieldSet::default(), time: owned.time.clone() });
            joined.fields = std::mem::take(&mut joined.fields).union(&owned.fields);
            joined.time = joined.time.clone().max(owned.time);
        }
    }
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let mut entry = json!({
        "manager": manager.name,
        "operation": manager.operation.name(),
        "apiVersion": manager.api_version,
        "time": owned.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": owned.fields.to_value(),
    });
    if !manager.subresource.is_empty() {
        entry["subresource"] = manager.subresource.clone().into();
    }
    entry
}

/// Fields that nobody owns: the system's (upstream's fieldmanager/stripmeta.go).
pub fn strip(fields: &mut FieldSet) {
    let metadata = Step::field("metadata");
    for name in ["apiVersion", "kind"] {
        fields.remove(&[Step::field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        fields.remove(&[metadata.clone(), Step::field(name)]);
    }
    fields.members.remove(&metadata);
}
