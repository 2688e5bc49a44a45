//! The three patch formats that need no field ownership: JSON patch, merge patch, strategic merge.
//!
//! Owns the arithmetic on JSON values and its bounds. Knows no kinds but through `typegraph`, and
//! nothing of retries, resource versions or what a patched object must satisfy.

use json_patch::{Patch, PatchOperation, patch_unsafe};
use serde_json::Value;

pub use strategic::strategic_merge;

mod strategic;

/// Most operations of one JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes (as JSON text, about) that the `copy` operations of one patch may add together.
pub const MAX_COPIED_BYTES: usize = 3 << 20;
/// Most bytes that the `move` operations of one patch may carry together: each is walked through.
pub const MAX_MOVED_BYTES: usize = 64 << 20;
/// Deepest nesting of a patched object; everything behind may recurse.
pub const MAX_DEPTH: usize = super::strict::MAX_DEPTH;

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is no patch; answered with 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object; answered with 422.
    #[error("{0}")]
    Unprocessable(String),
    /// A limit on the patch; answered with 413.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// The HTTP status that the error is answered with.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::Malformed(_) => 400,
            PatchError::Unprocessable(_) => 422,
            PatchError::TooLarge(_) => 413,
        }
    }

    fn malformed(text: impl ToString) -> PatchError {
        PatchError::Malformed(text.to_string())
    }
}

/// Applies a JSON patch (RFC 6902). All or nothing: the first failing operation is the error.
pub fn json_patch(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let Patch(operations) = serde::Deserialize::deserialize(patch)
        .map_err(|error: serde_json::Error| PatchError::malformed(error))?;
    let mut patched = original.clone();
    let mut carried = Carried::default();
    for (index, operation) in operations.iter().enumerate() {
        check_growth(&patched, operation, &mut carried)?;
        if asks_for_absence(&patched, operation) {
            continue;
        }
        if let Err(error) = patch_unsafe(&mut patched, std::slice::from_ref(operation)) {
            let (path, kind) = (operation.path(), error.kind);
            return Err(PatchError::Unprocessable(format!(
                "JSON patch operation {index} on path \"{path}\" failed: {kind}"
            )));
        }
    }
    Ok(patched)
}

/// A test for null where there is no such field: it holds, as in upstream's JSON patch library (Go
/// knows no difference), and kube-rs tests so before it adds a finalizer.
fn asks_for_absence(document: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let parent = path.rfind('/').and_then(|end| document.pointer(&path[..end]));
    test.value.is_null()
        && document.pointer(path).is_none()
        && parent.is_some_and(|parent| parent.is_object() || parent.is_array())
}

/// What the operations so far copied and moved, in bytes.
#[derive(Default)]
struct Carried {
    copied: usize,
    moved: usize,
}

/// Without this check a few `copy` operations could double an object many times over, or nest it
/// into itself until a recursion overflows the stack.
fn check_growth(
    document: &Value,
    operation: &PatchOperation,
    carried: &mut Carried,
) -> Result<(), PatchError> {
    let (value, target) = match operation {
        PatchOperation::Add(add) => (Some(&add.value), &add.path),
        PatchOperation::Replace(replace) => (Some(&replace.value), &replace.path),
        PatchOperation::Copy(copy) => (document.pointer(copy.from.as_str()), &copy.path),
        PatchOperation::Move(mv) => (document.pointer(mv.from.as_str()), &mv.path),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    // A missing source is the operation's own error.
    let Some(value) = value else { return Ok(()) };
    if target.count() + depth(value) > MAX_DEPTH {
        return Err(PatchError::TooLarge(format!(
            "the patched object is nested deeper than {MAX_DEPTH}"
        )));
    }
    let (name, sum, most) = match operation {
        PatchOperation::Copy(_) => ("copy", &mut carried.copied, MAX_COPIED_BYTES),
        PatchOperation::Move(_) => ("move", &mut carried.moved, MAX_MOVED_BYTES),
        _ => return Ok(()),
    };
    *sum += text_bytes(value);
    if *sum > most {
        let message = format!("the {name} operations of the patch carry more than {most} bytes");
        return Err(PatchError::TooLarge(message));
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the length of a value's JSON text, never less than one byte a value.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Array(list) => 2 + list.iter().map(|item| 1 + text_bytes(item)).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(key, item)| 4 + key.len() + text_bytes(item)).sum::<usize>()
        }
        Value::String(text) => 2 + text.len(),
        Value::Number(_) => 8,
        Value::Bool(_) | Value::Null => 4,
    }
}

/// Applies a merge patch (RFC 7386). For an API object the patch must be an object itself.
pub fn merge_patch(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    require_object(patch)?;
    let mut patched = original.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

fn require_object(patch: &Value) -> Result<(), PatchError> {
    let name = match patch {
        Value::Object(_) => return Ok(()),
        Value::Array(_) => "a list",
        Value::Null => "null",
        _ => "a scalar",
    };
    Err(PatchError::malformed(format!("a merge patch must be a JSON object, not {name}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patch_applies_in_order() {
        let original = json!({"a": 1, "list": [1, 2], "old": {"x": 1}});
        let patch = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "add", "path": "/list/-", "value": 3},
            {"op": "replace", "path": "/a", "value": {"b~c": 1}},
            {"op": "move", "from": "/old", "path": "/new"},
            {"op": "copy", "from": "/new", "path": "/copy"},
            {"op": "remove", "path": "/a/b~0c"},
        ]);
        let patched = json_patch(&original, &patch).unwrap();
        let expected = json!({"a": {}, "list": [1, 2, 3], "new": {"x": 1}, "copy": {"x": 1}});
        assert_eq!(patched, expected);
    }

    #[test]
    fn json_patch_failures_have_the_right_code() {
        let original = json!({"a": 1});
        let error = |patch: Value| json_patch(&original, &patch).unwrap_err();
        for malformed in [
            json!({}),
            json!("x"),
            json!([{"op": "jump", "path": "/a"}]),
            json!([{"op": "add", "path": "/a"}]),
            json!([{"op": "remove", "path": "a"}]),
        ] {
            assert_eq!(error(malformed.clone()).code(), 400, "{malformed}");
        }
        for failing in [
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "replace", "path": "/b/c", "value": 1}]),
            json!([{"op": "copy", "from": "/b", "path": "/a"}]),
        ] {
            assert_eq!(error(failing.clone()).code(), 422, "{failing}");
        }
        let absent = json!([{"op": "test", "path": "/b", "value": null}]);
        assert_eq!(json_patch(&original, &absent).unwrap(), original);
        assert_eq!(error(json!([{"op": "test", "path": "/b/c", "value": null}])).code(), 422);
        assert_eq!(error(json!([{"op": "test", "path": "/a", "value": null}])).code(), 422);
        let many = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1];
        assert_eq!(error(Value::Array(many)).code(), 413);
    }

    #[test]
    fn copies_can_neither_explode_nor_nest_without_end() {
        let doubling = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let original = json!({"a": ["x"]});
        let patch = Value::Array(vec![doubling; 60]);
        assert_eq!(json_patch(&original, &patch).unwrap_err().code(), 413);

        let there = json!({"op": "move", "from": "/a", "path": "/b"});
        let back = json!({"op": "move", "from": "/b", "path": "/a"});
        let original = json!({"a": vec!["x".repeat(1000); 1000]});
        let patch: Vec<Value> = [there, back].into_iter().cycle().take(MAX_OPERATIONS).collect();
        assert_eq!(json_patch(&original, &Value::Array(patch)).unwrap_err().code(), 413);

        let nesting = json!({"op": "copy", "from": "/a", "path": "/a/a"});
        let original = json!({"a": {}});
        let patch = Value::Array(vec![nesting; MAX_DEPTH]);
        assert_eq!(json_patch(&original, &patch).unwrap_err().code(), 413);
    }

    #[test]
    fn merge_patch_follows_the_rfc() {
        for (original, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": 1}), json!({"a": null}), json!({"b": 1})),
            (json!({"a": {"b": 1}}), json!({"a": {"b": 2, "c": null}}), json!({"a": {"b": 2}})),
            (json!({"a": [1]}), json!({"a": [2]}), json!({"a": [2]})),
            (json!({}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
            (json!({"a": [1]}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
        ] {
            assert_eq!(merge_patch(&original, &patch).unwrap(), expected, "{patch}");
        }
        assert_eq!(merge_patch(&json!({}), &json!([1])).unwrap_err().code(), 400);
    }
}
