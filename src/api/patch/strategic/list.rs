//! Merging of lists: by key for objects, as sets for scalars, and the order that comes out.
//!
//! Lists come from requests and may be long, so elements are found by hash and never by comparing
//! each with each.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    BAD_PRIMITIVE_LIST, FieldMerge, PATCH, PatchError, keep, merge_maps, unknown_directive,
};

/// `$deleteFromPrimitiveList/<list>`: takes scalars out of a list, if there is one.
pub(super) fn delete_items(list: Option<&mut Value>, items: &Value) -> Result<(), PatchError> {
    let Value::Array(items) = items else {
        return Err(PatchError::malformed(BAD_PRIMITIVE_LIST));
    };
    if let Some(Value::Array(list)) = list {
        let items: HashSet<&Value> = items.iter().collect();
        list.retain(|item| !items.contains(item));
    }
    Ok(())
}

/// Merges a patch's list into the original's, for fields that merge.
pub(super) fn merge(
    original: Vec<Value>,
    patch: Vec<Value>,
    merge: FieldMerge,
) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let order = patch.clone();
    let before = original.clone();
    let merged = merge_items(original, patch, merge)?;
    put_in_order(merged, &order, &before, merge.key)
}

/// Merges two lists, either of which may be missing, and orders the result by `order`.
pub(super) fn merge_ordered(
    original: Option<Vec<Value>>,
    patch: Option<Vec<Value>>,
    order: &[Value],
    merge: FieldMerge,
) -> Result<Vec<Value>, PatchError> {
    let before = original.clone().unwrap_or_default();
    let merged = match (original, patch) {
        (Some(original), Some(patch)) if merge.merges_list => merge_items(original, patch, merge)?,
        (Some(original), None) => original,
        (_, patch) => patch.into_iter().flatten().filter_map(keep).collect(),
    };
    put_in_order(merged, order, &before, merge.key)
}

/// The patch's own elements must come in the order that the directive gives.
pub(super) fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        let identity = identity(item, key)?;
        if !rest.any(|ordered| same_identity(ordered, key, identity)) {
            return Err(PatchError::Unprocessable(format!(
                "the order in the patch list does not match the $setElementOrder list: {item}"
            )));
        }
    }
    Ok(())
}

fn merge_items(
    original: Vec<Value>,
    patch: Vec<Value>,
    merge: FieldMerge,
) -> Result<Vec<Value>, PatchError> {
    let all = || original.iter().chain(&patch);
    if all().any(Value::is_array) {
        return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
    }
    let objects = all().filter(|item| item.is_object()).count();
    match objects {
        0 => {
            let mut seen = HashSet::with_capacity(original.len() + patch.len());
            let both = original.into_iter().chain(patch);
            Ok(both.filter(|item| seen.insert(item.clone())).collect())
        }
        _ if objects == all().count() => merge_objects(original, patch, merge),
        _ => Err(PatchError::Unprocessable("list element types are not identical".into())),
    }
}

fn merge_objects(
    mut merged: Vec<Value>,
    patch: Vec<Value>,
    merge: FieldMerge,
) -> Result<Vec<Value>, PatchError> {
    let mut changes: Vec<Map<String, Value>> = Vec::with_capacity(patch.len());
    let mut deleted: HashSet<Value> = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(item) = item else { continue };
        match item.get(PATCH).map(|directive| (directive, directive.as_str())) {
            None => changes.push(item),
            Some((_, Some("delete"))) => {
                deleted.insert(identity(&Value::Object(item), merge.key)?.clone());
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err(PatchError::Unprocessable(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            Some((directive, _)) => return Err(unknown_directive(directive)),
        }
    }
    if replace {
        return Ok(changes.into_iter().filter_map(|item| keep(Value::Object(item))).collect());
    }
    if !deleted.is_empty() {
        merged.retain(|old| !identity(old, merge.key).is_ok_and(|own| deleted.contains(own)));
    }
    // Merging leaves an element's key as it is, so that places stay true.
    let mut places: HashMap<Value, usize> = HashMap::with_capacity(merged.len());
    for (at, old) in merged.iter().enumerate() {
        if let Ok(own) = identity(old, merge.key) {
            places.entry(own.clone()).or_insert(at);
        }
    }
    for change in changes {
        let change = Value::Object(change);
        let wanted = identity(&change, merge.key)?.clone();
        let found = places.get(&wanted).copied();
        match (found.map(|at| (at, merged[at].take())), change) {
            (Some((at, Value::Object(old))), Value::Object(change)) => {
                merged[at] = Value::Object(merge_maps(old, change, merge.id)?);
            }
            (_, change) => {
                if let Some(new) = keep(change) {
                    places.insert(wanted, merged.len());
                    merged.push(new);
                }
            }
        }
    }
    Ok(merged)
}

/// What makes an element the same one: its merge key's value, or itself in a list without a key.
fn identity<'v>(item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    if key.is_empty() {
        return Ok(item);
    }
    item.get(key).ok_or_else(|| {
        PatchError::Unprocessable(format!("map: {item} does not contain declared merge key: {key}"))
    })
}

fn same_identity(item: &Value, key: &str, wanted: &Value) -> bool {
    identity(item, key).is_ok_and(|own| own == wanted)
}

/// Where each element stands; of several with one identity the first.
fn places<'v>(list: &'v [Value], key: &str) -> HashMap<&'v Value, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        if let Ok(own) = identity(item, key) {
            places.entry(own).or_insert(at);
        }
    }
    places
}

/// Elements that the order names come in that order; the others keep the order of the original, and
/// stay in front of those that they stood in front of.
fn put_in_order(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    let (in_order, in_original) = (places(order, key), places(before, key));
    type Placed = (Option<usize>, Option<usize>, Value);
    let mut named: Vec<Placed> = Vec::new();
    let mut others: Vec<Placed> = Vec::new();
    for item in merged {
        let own = identity(&item, key)?;
        let (place, old) = (in_order.get(own).copied(), in_original.get(own).copied());
        let part = if place.is_some() { &mut named } else { &mut others };
        part.push((place, old, item));
    }
    named.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(_, old, _)| old.unwrap_or(usize::MAX));

    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, old, item) in named {
        let in_front = |other: &Placed| matches!((other.1, old), (Some(a), Some(b)) if a < b);
        while let Some((.., other)) = others.next_if(in_front) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others.map(|(.., other)| other));
    Ok(result)
}
