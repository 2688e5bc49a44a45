//! Strategic merge patch: lists merge by key as each field's type says, with directives.
//!
//! Follows k8s.io/apimachinery/pkg/util/strategicpatch as the API server uses it: the patch is
//! merged into the original, `null` deletes, `$patch`, `$retainKeys`, `$setElementOrder/<list>`
//! and `$deleteFromPrimitiveList/<list>` are honoured and never stored. Fields that the type graph
//! does not know merge as maps and replace as lists; that they are unknown is for the decoder to
//! notice.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::super::typegraph::{FieldType, MergeRule, TypeId, graph};
use super::{PatchError, require_object};

mod list;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_ELEMENT_ORDER: &str = "invalid patch format of setElementOrder list";
const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";

/// Applies a strategic merge patch to an object of a built-in kind, given as group, version, kind.
pub fn strategic_merge(
    (group, version, kind): (&str, &str, &str),
    original: Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let Some(id) = graph().kind(group, version, kind) else {
        return Err(PatchError::Malformed("strategic merge patch format is not supported".into()));
    };
    require_object(patch)?;
    let original = match original {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let patch = patch.as_object().cloned().unwrap_or_default();
    merge_maps(original, patch, Some(id)).map(Value::Object)
}

/// What the type graph says of one field; all empty for what it does not know.
#[derive(Clone, Copy, Default)]
struct FieldMerge {
    /// The type of the field, or of its elements.
    id: Option<TypeId>,
    replaces: bool,
    /// True for lists that merge; without a key they are sets.
    merges_list: bool,
    key: &'static str,
}

impl FieldMerge {
    fn of(parent: Option<TypeId>, field: &str) -> FieldMerge {
        let Some(parent) = parent else { return FieldMerge::default() };
        let Some(known) = graph().field_named(parent, field) else { return FieldMerge::default() };
        let id = match known.kind {
            FieldType::Message(id) => Some(id),
            _ => None,
        };
        let rule = graph().merge_rule(graph().name(parent), field).copied();
        let MergeRule { patch_strategy, patch_merge_key: key, .. } = rule.unwrap_or_default();
        let has = |strategy| patch_strategy.split(',').any(|one| one == strategy);
        FieldMerge { id, replaces: has("replace"), merges_list: has("merge"), key }
    }
}

fn merge_maps(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    id: Option<TypeId>,
) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.remove(PATCH) {
        match directive.as_str() {
            Some("replace") => return Ok(without_directives(patch)),
            Some("delete") => return Ok(Map::new()),
            Some("merge") => {}
            _ => return Err(unknown_directive(&directive)),
        }
    }
    apply_retain_keys(&mut original, &mut patch)?;
    apply_element_orders(&mut original, &mut patch, id)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            list::delete_items(original.get_mut(list), &value)?;
            continue;
        }
        let merge = FieldMerge::of(id, &key);
        let merged = match (original.remove(&key), value) {
            (_, Value::Null) => None,
            (Some(Value::Object(old)), Value::Object(new)) if !merge.replaces => {
                // A map whose values are messages: `id` is the type of the values then.
                Some(Value::Object(merge_field_maps(old, new, id, &key, merge)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) if merge.merges_list => {
                Some(Value::Array(list::merge(old, new, merge)?))
            }
            (_, new) => keep(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// Merges a field's two maps. A Kubernetes map of messages (such as `extra`) has no type of its
/// own, so its keys are not looked up.
fn merge_field_maps(
    old: Map<String, Value>,
    new: Map<String, Value>,
    parent: Option<TypeId>,
    key: &str,
    merge: FieldMerge,
) -> Result<Map<String, Value>, PatchError> {
    use super::super::typegraph::Container;
    let known = parent.and_then(|parent| graph().field_named(parent, key));
    let is_struct = known.is_some_and(|field| field.container == Container::One);
    merge_maps(old, new, merge.id.filter(|_| is_struct))
}

/// A value that the original does not have: taken as it is, without nulls and directives. None if
/// it was nothing but a directive.
fn keep(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => match map[PATCH].as_str() {
            Some("delete") => None,
            _ => Some(Value::Object(without_directives(map))),
        },
        Value::Object(map) => Some(Value::Object(without_directives(map))),
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(keep).collect())),
        scalar => Some(scalar),
    }
}

fn without_directives(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key))
        .filter_map(|(key, value)| Some((key, keep(value)?)))
        .collect()
}

fn is_directive(key: &str) -> bool {
    key == PATCH
        || key == RETAIN_KEYS
        || key.starts_with(SET_ELEMENT_ORDER)
        || key.starts_with(DELETE_FROM_LIST)
}

fn unknown_directive(directive: &Value) -> PatchError {
    PatchError::Unprocessable(format!("unknown patch type: {directive}"))
}

/// `$retainKeys`: what is not on the list goes. This is how a union changes its member.
fn apply_retain_keys(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || PatchError::malformed(BAD_RETAIN_KEYS);
    let retained = directive.as_array().ok_or_else(bad)?;
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let retains = |key: &str| retained.contains(key);
    let all_listed =
        patch.iter().all(|(key, value)| value.is_null() || is_directive(key) || retains(key));
    if !all_listed {
        return Err(bad());
    }
    original.retain(|key, _| retains(key));
    Ok(())
}

/// `$setElementOrder/<list>`: merges that list and puts it in the given order. Takes the directive
/// and the list out of the patch.
fn apply_element_orders(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    id: Option<TypeId>,
) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let field = &directive[SET_ELEMENT_ORDER.len()..];
        let bad = || PatchError::malformed(BAD_ELEMENT_ORDER);
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(bad()) };
        if field.is_empty() {
            return Err(bad());
        }
        // A null beside the order deletes the list; that is the ordinary way of nulls.
        if patch.get(field).is_some_and(Value::is_null) {
            continue;
        }
        let new = match patch.remove(field) {
            Some(Value::Array(new)) => Some(new),
            None => None,
            Some(_) => return Err(bad()),
        };
        let old = match original.remove(field) {
            Some(Value::Array(old)) => Some(old),
            None | Some(Value::Null) => None,
            Some(_) => return Err(bad()),
        };
        if old.is_none() && new.is_none() {
            continue;
        }
        let merge = FieldMerge::of(id, field);
        list::check_order(new.as_deref().unwrap_or(&[]), &order, merge.key)?;
        let ordered = list::merge_ordered(old, new, &order, merge)?;
        original.insert(field.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
