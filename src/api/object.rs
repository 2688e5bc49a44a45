//! Objects without their type: what the pipeline works on, and the bytes that readers are sent.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::resource::Kind;
use super::strict;

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

/// An erased object: always a JSON object. `metadata` may be missing until it is asked for by
/// [`Object::meta_mut`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Map<String, Value>);

/// An object as stored and sent: one line of JSON, never re-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ObjectKey {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(meta: &ObjectMeta) -> ObjectKey {
        ObjectKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Raw {
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.0)
            .map_err(|e| ApiError::internal(format!("a stored object cannot be read: {e}")))
    }

    pub fn object(&self) -> Result<Object, ApiError> {
        self.decode::<Map<String, Value>>().map(Object)
    }
}

static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

impl Object {
    /// Refuses anything but a JSON object.
    pub fn from_value(value: Value) -> Result<Object, ApiError> {
        match value {
            Value::Object(map) => Ok(Object(map)),
            other => Err(ApiError::bad_request(format!("expected a JSON object, not {other}"))),
        }
    }

    pub fn from_typed<T: Kind>(object: &T) -> Object {
        match serde_json::to_value(object) {
            Ok(Value::Object(map)) => Object(map),
            // k8s-openapi's types serialise to objects with string keys only.
            other => unreachable!("a typed object serialised to {other:?}"),
        }
    }

    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        // By the decoder that `strict` uses: another would be compiled once more for every type.
        strict::decode_known(&self.0).map_err(|e| ApiError::bad_request(e.to_string()))
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    pub fn fields_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    pub fn set(&mut self, field: &str, value: Value) {
        self.0.insert(field.into(), value);
    }

    pub fn remove(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    /// A value by a path of field names.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.0.get(*first)?;
        for part in rest {
            value = value.get(*part)?;
        }
        Some(value).filter(|v| !v.is_null())
    }

    pub fn kind(&self) -> &str {
        self.text("kind")
    }

    pub fn api_version(&self) -> &str {
        self.text("apiVersion")
    }

    fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn meta(&self) -> &Map<String, Value> {
        self.0.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
    }

    /// The metadata, made if it is missing or not an object.
    pub fn meta_mut(&mut self) -> &mut Map<String, Value> {
        let value = self.0.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(map) => map,
            _ => unreachable!("set to an object above"),
        }
    }

    pub fn meta_text(&self, field: &str) -> &str {
        self.meta().get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn set_meta(&mut self, field: &str, value: impl Into<Value>) {
        self.meta_mut().insert(field.into(), value.into());
    }

    pub fn name(&self) -> &str {
        self.meta_text("name")
    }

    pub fn namespace(&self) -> &str {
        self.meta_text("namespace")
    }

    pub fn uid(&self) -> &str {
        self.meta_text("uid")
    }

    pub fn resource_version(&self) -> &str {
        self.meta_text("resourceVersion")
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }

    pub fn generation(&self) -> i64 {
        self.meta().get("generation").and_then(Value::as_i64).unwrap_or_default()
    }

    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.meta().get("deletionTimestamp").and_then(Value::as_str)
    }

    pub fn finalizers(&self) -> Vec<&str> {
        let list = self.meta().get("finalizers").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.string_map("labels")
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.string_map("annotations")
    }

    fn string_map(&self, field: &str) -> BTreeMap<String, String> {
        let map = self.meta().get(field).and_then(Value::as_object);
        let pairs = map.into_iter().flatten();
        pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
    }

    /// One line of JSON with `kind` first, then `apiVersion`, `metadata`, the rest.
    pub fn to_json(&self) -> Vec<u8> {
        self.write(false).0
    }

    /// The JSON without `metadata.resourceVersion`'s digits, and the offset at which the store
    /// inserts them: `"resourceVersion":"` is in the text already.
    pub fn to_json_with_splice(&self) -> (Vec<u8>, usize) {
        let (bytes, splice) = self.write(true);
        (bytes, splice.unwrap_or_default())
    }

    fn write(&self, splice: bool) -> (Vec<u8>, Option<usize>) {
        // Enough for most objects: to grow is to copy.
        let mut out = Vec::with_capacity(2048);
        let mut offset = None;
        out.push(b'{');
        for field in ["kind", "apiVersion"] {
            if let Some(value) = self.0.get(field) {
                write_field(&mut out, field, value);
            }
        }
        if splice || self.0.contains_key("metadata") {
            offset = Some(write_meta(&mut out, self.meta(), splice));
        }
        for (field, value) in &self.0 {
            if !matches!(field.as_str(), "kind" | "apiVersion" | "metadata") {
                write_field(&mut out, field, value);
            }
        }
        out.push(b'}');
        (out, offset)
    }
}

/// Writes `metadata` and returns the offset of the revision's digits (with `splice`).
fn write_meta(out: &mut Vec<u8>, meta: &Map<String, Value>, splice: bool) -> usize {
    comma(out);
    out.extend_from_slice(b"\"metadata\":{");
    let mut offset = 0;
    if splice {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        offset = out.len();
        out.push(b'"');
    }
    for (field, value) in meta {
        if !(splice && field == "resourceVersion") {
            write_field(out, field, value);
        }
    }
    out.push(b'}');
    offset
}

fn write_field(out: &mut Vec<u8>, field: &str, value: &Value) {
    comma(out);
    // Writing to a Vec cannot fail, and Values have string keys only.
    let _ = serde_json::to_writer(&mut *out, field);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{') | None) {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kind_comes_first_and_the_revision_is_spliced() {
        let value = json!({"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"},
            "metadata":{"name":"x","resourceVersion":"3"}});
        let object = Object::from_value(value).unwrap();
        let text = String::from_utf8(object.to_json()).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","resourceVersion":"3"},"data":{"a":"b"}}"#
        );
        let (mut bytes, offset) = object.to_json_with_splice();
        bytes.splice(offset..offset, b"17".iter().copied());
        assert_eq!(Raw(bytes.into()).object().unwrap().resource_version(), "17");
    }
}
