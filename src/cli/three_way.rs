//! What `apply` sends for an object that exists: everything of the file, and a removal of what the
//! last applied file had and this one has not. Lists with a merge key lose elements one by one.
//! Source of the rules: kubectl's declarative configuration (three-way strategic merge patch).

use serde_json::{Map, Value, json};

use crate::api::resource::Gvr;
use crate::api::typegraph::{Container, FieldType, TypeGraph, TypeId, graph};

/// The last file that was applied, as kubectl keeps it too.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A strategic merge patch for built-in kinds; for others a JSON merge patch.
pub fn patch(gvr: &Gvr, kind: &str, last: &Value, new: &Value) -> (&'static str, Value) {
    let graph = graph();
    match graph.kind(&gvr.group, &gvr.version, kind) {
        Some(root) => {
            let patch = merge(graph, Some(root), last, new);
            ("application/strategic-merge-patch+json", patch)
        }
        None => ("application/merge-patch+json", merge(graph, None, last, new)),
    }
}

/// `new` with removals added.
fn merge(graph: &TypeGraph, kind: Option<TypeId>, last: &Value, new: &Value) -> Value {
    let (Value::Object(last), Value::Object(new)) = (last, new) else { return new.clone() };
    let mut patch: Map<String, Value> = Map::new();
    for (field, value) in new {
        let before = last.get(field).unwrap_or(&Value::Null);
        add_field(graph, kind, field, before, value, &mut patch);
    }
    for field in last.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    Value::Object(patch)
}

fn add_field(
    graph: &TypeGraph,
    kind: Option<TypeId>,
    field: &str,
    last: &Value,
    new: &Value,
    patch: &mut Map<String, Value>,
) {
    let known = kind.and_then(|kind| Some((kind, graph.field_named(kind, field)?)));
    let inner = known.and_then(|(_, known)| match known.kind {
        FieldType::Message(inner) if known.container != Container::Map => Some(inner),
        _ => None,
    });
    let rule = known.and_then(|(kind, _)| graph.merge_rule(graph.name(kind), field));
    let merges = rule.is_some_and(|rule| rule.patch_strategy.contains("merge"));
    let (Value::Array(last_items), Value::Array(new_items)) = (last, new) else {
        patch.insert(field.into(), merge(graph, inner, last, new));
        return;
    };
    if !merges {
        patch.insert(field.into(), new.clone());
        return;
    }
    let key = rule.map(|rule| rule.patch_merge_key).unwrap_or_default();
    if key.is_empty() {
        let gone: Vec<&Value> =
            last_items.iter().filter(|item| !new_items.contains(item)).collect();
        if !gone.is_empty() {
            patch.insert(format!("$deleteFromPrimitiveList/{field}"), json!(gone));
        }
        patch.insert(field.into(), new.clone());
        return;
    }
    let same = |a: &Value, b: &Value| a.get(key).is_some() && a.get(key) == b.get(key);
    let mut items: Vec<Value> = new_items
        .iter()
        .map(|item| {
            let before = last_items.iter().find(|old| same(old, item)).unwrap_or(&Value::Null);
            merge(graph, inner, before, item)
        })
        .collect();
    let gone = last_items.iter().filter(|old| !new_items.iter().any(|item| same(old, item)));
    items.extend(gone.filter_map(|old| Some(json!({"$patch": "delete", key: old.get(key)?}))));
    let order: Vec<Value> =
        new_items.iter().filter_map(|item| Some(json!({key: item.get(key)?}))).collect();
    patch.insert(format!("$setElementOrder/{field}"), Value::Array(order));
    patch.insert(field.into(), Value::Array(items));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::patch::strategic_merge;
    use crate::api::samples::{Dice, KINDS};

    fn of(last: Value, new: Value) -> Value {
        patch(&Gvr::new("apps", "v1", "deployments", true), "Deployment", &last, &new).1
    }

    #[test]
    fn what_left_the_file_is_removed() {
        let last = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"paused": true}});
        let new = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 2}});
        assert_eq!(
            of(last, new),
            json!({"metadata": {"labels": {"a": "1", "b": null}},
                   "spec": {"replicas": 2, "paused": null}})
        );
    }

    #[test]
    fn list_elements_are_removed_by_their_key() {
        let containers =
            |list: Value| json!({"spec": {"template": {"spec": {"containers": list}}}});
        let last = containers(json!([{"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}]));
        let new = containers(json!([{"name": "a", "image": "y"}]));
        assert_eq!(
            of(last, new)["spec"]["template"]["spec"],
            json!({"containers": [{"name": "a", "image": "y", "args": null},
                                  {"$patch": "delete", "name": "b"}],
                   "$setElementOrder/containers": [{"name": "a"}]})
        );
    }

    proptest::proptest! {
        /// From any file to any other, whatever the first one made.
        #[test]
        fn a_patch_makes_the_second_file_of_the_first(
            kind in proptest::sample::select(KINDS), one: u64, two: u64,
        ) {
            let (first, second) = (Dice(one).object(kind), Dice(two).object(kind));
            let made = |file: &Value| strategic_merge(kind, json!({}), file).unwrap();
            let (graph, id) = (graph(), graph().kind(kind.0, kind.1, kind.2));
            let patch = merge(graph, id, &first, &second);
            let patched = strategic_merge(kind, made(&first), &patch).unwrap();
            proptest::prop_assert_eq!(merged(&patched), merged(&made(&second)));
        }
    }

    /// Without the empty maps and lists that removals leave behind.
    fn merged(value: &Value) -> Value {
        let is_empty = |value: &Value| match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        match value {
            Value::Object(map) => {
                let fields = map.iter().map(|(name, value)| (name.clone(), merged(value)));
                Value::Object(fields.filter(|(_, value)| !is_empty(value)).collect())
            }
            Value::Array(items) => items.iter().map(merged).collect(),
            scalar => scalar.clone(),
        }
    }
}
