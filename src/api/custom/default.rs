//! Defaulting: what the schema has a default for is set where it is missing, or null where null is
//! not allowed (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting).

use serde_json::Value;

use super::schema::Schema;

/// Takes nulls away that the schema does not allow, and sets defaults, from the outside in: a
/// default may have parts with defaults of their own.
pub fn set_defaults(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                !value.is_null() || schema.field(name).is_none_or(|known| known.nullable)
            });
            for (name, known) in &schema.properties {
                if let Some(default) = &known.default
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(known) = schema.field(name) {
                    set_defaults(known, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = &schema.items else { return };
            items.iter_mut().for_each(|value| set_defaults(item, value));
        }
        _ => {}
    }
}
