//! Pruning: fields that the schema does not specify are taken away and listed
//! (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning).

use serde_json::Value;

use super::schema::{Additional, Schema, child};
use crate::api::field::Path;
use crate::api::strict::MAX_REPORTED_FIELDS;

/// What every whole object has, whatever its schema says.
const OBJECT_FIELDS: &[&str] = &["apiVersion", "kind", "metadata"];

/// Prunes a whole object; the paths of what was taken are added to `unknown`.
pub fn prune(schema: &Schema, value: &mut Value, unknown: &mut Vec<String>) {
    prune_at(schema, value, None, true, unknown);
}

/// Prunes a value that is no whole object by itself (a default).
pub(super) fn prune_value(schema: &Schema, value: &mut Value, unknown: &mut Vec<String>) {
    prune_at(schema, value, None, schema.embedded, unknown);
}

fn prune_at(
    schema: &Schema,
    value: &mut Value,
    path: Option<&Path>,
    whole: bool,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => {
            let keeps_all = schema.preserve_unknown
                || matches!(schema.additional, Additional::Anything | Additional::Of(_));
            map.retain(|name, value| {
                let at = child(path, name);
                if whole && OBJECT_FIELDS.contains(&name.as_str()) {
                    return true;
                }
                if let Some(known) = schema.field(name) {
                    prune_at(known, value, Some(&at), known.embedded, unknown);
                    return true;
                }
                if !keeps_all && unknown.len() < MAX_REPORTED_FIELDS {
                    unknown.push(at.to_string());
                }
                keeps_all
            });
        }
        Value::Array(items) => {
            let (Some(item), Some(path)) = (&schema.items, path) else { return };
            for (index, value) in items.iter_mut().enumerate() {
                prune_at(item, value, Some(&path.index(index)), item.embedded, unknown);
            }
        }
        _ => {}
    }
}
