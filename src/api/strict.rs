//! Decoding that notices what a lenient decoder drops: unknown and duplicate fields.
//!
//! Owns the one parse of a JSON or YAML body (bounded in depth, duplicates listed) and the typed decoding
//! that lists unknown fields and says where a type does not fit. What becomes of the lists (an
//! error, a warning, nothing) is the caller's decision.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::typegraph::TypeId;

mod nulls;
mod tracked;
mod yaml;

use tracked::{At, Failure};
pub use yaml::yaml_duplicates;

/// Deepest nesting of objects and lists in a body. Everything behind the parser may recurse.
pub const MAX_DEPTH: usize = 100;
/// Most brackets that may be open at a place of a YAML document, those of texts among them: the
/// parser behind looks at each of them for each token, so that many of both would take minutes.
const MAX_OPEN_BRACKETS: usize = 256;
/// Most duplicate or unknown fields that are listed; the rest is not shown to anyone.
pub const MAX_REPORTED_FIELDS: usize = 100;

/// A body, and the paths of the keys that it holds twice (the last value counts).
#[derive(Debug)]
pub struct Parsed {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Reads JSON in one pass. Fails on bad syntax, on anything after the document, and on nesting
/// deeper than [`MAX_DEPTH`].
pub fn parse(json: &[u8]) -> Result<Parsed, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = parse_with(&mut deserializer)?;
    deserializer.end()?;
    Ok(parsed)
}

/// Reads one YAML document, which may be JSON, with the same bounds.
pub fn parse_yaml(yaml: &[u8]) -> Result<Parsed, serde_yaml::Error> {
    // JSON is read as what it is, which costs less.
    if yaml.trim_ascii_start().starts_with(b"{")
        && let Ok(parsed) = parse(yaml)
        && parsed.duplicates.is_empty()
    {
        return Ok(parsed);
    }
    if yaml::open_brackets(yaml) > MAX_OPEN_BRACKETS {
        let text = format!("more than {MAX_OPEN_BRACKETS} brackets are open");
        return Err(de::Error::custom(text));
    }
    parse_with(serde_yaml::Deserializer::from_slice(yaml))
}

fn parse_with<'de, D: de::Deserializer<'de>>(deserializer: D) -> Result<Parsed, D::Error> {
    let mut scan = Scan { path: Vec::new(), duplicates: Vec::new() };
    let value = Element(&mut scan).deserialize(deserializer)?;
    Ok(Parsed { value, duplicates: scan.duplicates })
}

/// Paths of duplicate keys, such as `spec.replicas`, in the order of the text.
pub fn duplicate_fields(json: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    parse(json).map(|parsed| parsed.duplicates)
}

/// Decodes a value and lists the paths of fields that the type does not know, such as
/// `spec.template.spec.containers[0].foo`. A value that does not fit names its path:
/// `spec.replicas: invalid type: string "x", expected i32`.
pub fn unknown_fields<T: DeserializeOwned>(
    value: &Value,
) -> Result<(T, Vec<String>), serde_json::Error> {
    tracked::decode(At::Value(value)).map_err(|failure| located(&failure))
}

/// Decodes an object, and passes over fields that the type does not know.
pub fn decode_known<T: DeserializeOwned>(
    object: &Map<String, Value>,
) -> Result<T, serde_json::Error> {
    tracked::decode(At::Object(object)).map(|(decoded, _)| decoded).map_err(|failure| failure.error)
}

/// The error with the path to what did not fit.
fn located(failure: &Failure<'_>) -> serde_json::Error {
    let (path, error) = (failure.path(), &failure.error);
    if path.is_empty() {
        de::Error::custom(error)
    } else {
        de::Error::custom(format!("{path}: {error}"))
    }
}

/// Like [`unknown_fields`], with the error that the client is answered. Reads `null` as Go does
/// ([`nulls`]); `root` tells the value's type.
pub fn decode_typed<T: DeserializeOwned>(
    mut value: Value,
    root: impl FnOnce() -> Option<TypeId>,
) -> Result<(T, Vec<String>), ApiError> {
    let mut root = Some(root);
    // Each round takes the nulls away of all values of one field.
    for _ in 0..MAX_DEPTH {
        let (error, failed) = match tracked::decode(At::Value(&value)) {
            Ok(decoded) => return Ok(decoded),
            Err(failure) => {
                (ApiError::bad_request(located(&failure).to_string()), failure.pointer())
            }
        };
        if !value.pointer(&failed).is_some_and(Value::is_null) {
            return Err(error);
        }
        let root = root.take().and_then(|root| root());
        let filled = root.is_some_and(|root| nulls::fill(&mut value, root));
        if !filled && !nulls::unset_times(&mut value, &failed) {
            return Err(error);
        }
    }
    Err(ApiError::bad_request("too many fields are null"))
}

fn join(mut parent: String, key: &str) -> String {
    if !parent.is_empty() {
        parent.push('.');
    }
    parent.push_str(key);
    parent
}

enum Segment {
    Key(String),
    Index(usize),
}

/// Where the parser is, and what it has found.
struct Scan {
    path: Vec<Segment>,
    duplicates: Vec<String>,
}

impl Scan {
    fn enter<E: de::Error>(&mut self, segment: Segment) -> Result<(), E> {
        // One segment is one level: the document itself has none.
        if self.path.len() >= MAX_DEPTH {
            return Err(E::custom(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        self.path.push(segment);
        Ok(())
    }

    fn note_duplicate(&mut self, key: &str) {
        if self.duplicates.len() >= MAX_REPORTED_FIELDS {
            return;
        }
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) => text = join(text, key),
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        let path = join(text, key);
        if !self.duplicates.contains(&path) {
            self.duplicates.push(path);
        }
    }
}

/// One value, wherever it stands.
struct Element<'s>(&'s mut Scan);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.enter(Segment::Index(list.len()))?;
            let item = access.next_element_seed(Element(self.0))?;
            self.0.path.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        // Most objects are small, and their map is the cheapest set of keys seen.
        let mut seen_twice: HashSet<String> = HashSet::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) && seen_twice.insert(key.clone()) {
                self.0.note_duplicate(&key);
            }
            self.0.enter(Segment::Key(key))?;
            let value = access.next_value_seed(Element(self.0))?;
            if let Some(Segment::Key(key)) = self.0.path.pop() {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_listed_with_their_path_and_the_last_one_counts() {
        let text = br#"{"spec":{"replicas":1,"a":[{"x":1},{"x":1,"x":2,"x":3}],"replicas":2},
            "e":{},"e":1,"d\u0065":1,"de":2}"#;
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.duplicates, ["spec.a[1].x", "spec.replicas", "e", "de"]);
        assert_eq!(parsed.value["spec"]["replicas"], 2);
        assert_eq!(parsed.value["spec"]["a"][1]["x"], 3);
        assert_eq!(duplicate_fields(b"[1, \"a\", null, 1.5, -3, true]").unwrap(), [""; 0]);
    }

    /// As Go clients write a condition whose time nobody set.
    #[test]
    fn times_that_are_null_are_unset() {
        use k8s_openapi::api::core::v1::Service;
        let condition = |time: Value| {
            json!({"status": {"conditions": [{"type": "T", "status": "True", "reason": "R",
                "message": "", "lastTransitionTime": time}]}})
        };
        let (service, unknown) = decode_typed::<Service>(condition(Value::Null), || None).unwrap();
        let decoded = &service.status.unwrap().conditions.unwrap()[0];
        assert_eq!(decoded.last_transition_time.0.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(unknown, [""; 0]);
        let error = decode_typed::<Service>(condition(5.into()), || None).unwrap_err().message;
        assert!(error.starts_with("status.conditions[0].lastTransitionTime: "), "{error}");
    }

    #[test]
    fn yaml_is_read_as_json_is() {
        let text = b"spec: {replicas: 1, replicas: 2}\nlist:\n- a: null\n  a: 1.5\n1: x\ny: true\n";
        let parsed = parse_yaml(text).unwrap();
        assert_eq!(parsed.duplicates, ["spec.replicas", "list[0].a"]);
        let expected = json!({"spec": {"replicas": 2}, "list": [{"a": 1.5}], "1": "x", "y": true});
        assert_eq!(parsed.value, expected);
        assert_eq!(parse_yaml(b"a: &x {b: 1}\nc: *x").unwrap().value["c"]["b"], 1);
        for bad in ["a: [", "a: 1\n---\nb: 2", "a: !tag {}"] {
            assert!(parse_yaml(bad.as_bytes()).is_err(), "{bad}");
        }
        let nested = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
        assert!(parse_yaml(nested.as_bytes()).is_err());
        // Without the look before, this takes minutes.
        let deep = format!("a: {}", "[".repeat(100_000));
        let error = parse_yaml(deep.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "more than 256 brackets are open");
        // Texts have some, too.
        let text = format!("a: |\n  {}\n", "[ ".repeat(200));
        assert!(parse_yaml(text.as_bytes()).is_ok());
    }

    #[test]
    fn bad_text_and_deep_nesting_are_errors() {
        for text in ["", "{", "{\"a\":1}x", "nope", "{\"a\":}", "\u{feff}{}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        let error = parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains("max depth"), "{error}");
        assert!(parse(nested(100_000).as_bytes()).is_err());
        assert!(parse(("{\"a\":".repeat(100_000)).as_bytes()).is_err());
    }

    #[test]
    fn unknown_fields_are_listed_with_their_path() {
        let value = json!({"kind": "Deployment", "apiVersion": "apps/v1", "extra": {"a": 1},
            "metadata": {"labels": {"any": "thing"}, "foo": 1},
            "spec": {"selector": {}, "template": {"spec": {"containers": [
                {"name": "a", "foo": 1}, {"name": "b", "env": [{"name": "x", "bar": null}]}]}}}});
        let (_, unknown) = unknown_fields::<Deployment>(&value).unwrap();
        assert_eq!(
            unknown,
            [
                "extra",
                "metadata.foo",
                "spec.template.spec.containers[0].foo",
                "spec.template.spec.containers[1].env[0].bar",
            ]
        );
    }

    #[test]
    fn type_errors_name_the_field() {
        let bad = |value: Value| unknown_fields::<Deployment>(&value).unwrap_err().to_string();
        assert_eq!(
            bad(json!({"kind": "Deployment", "apiVersion": "apps/v1", "spec": {"replicas": "x"}})),
            "spec.replicas: invalid type: string \"x\", expected i32"
        );
        let pods = |spec: Value| {
            let pod = json!({"kind": "Pod", "apiVersion": "v1", "spec": spec});
            unknown_fields::<Pod>(&pod).unwrap_err().to_string()
        };
        let text = pods(json!({"containers": [{"name": "a"}, {"name": "b", "ports": [{}, 7]}]}));
        assert!(text.starts_with("spec.containers[1].ports[1]: invalid type: integer"), "{text}");
        let text = pods(json!({"nodeSelector": {"a": "b", "c": 5}}));
        assert!(text.starts_with("spec.nodeSelector.c: invalid type"), "{text}");
        let text = pods(json!({"containers": [{"name": "a",
            "livenessProbe": {"httpGet": {"port": true}}}]}));
        assert!(text.starts_with("spec.containers[0].livenessProbe.httpGet.port:"), "{text}");
        let text = bad(json!({"kind": "Deployment", "apiVersion": "apps/v1",
            "metadata": {"creationTimestamp": "yesterday"}}));
        assert!(text.starts_with("metadata.creationTimestamp: "), "{text}");
        let text = bad(json!([1]));
        assert!(text.starts_with("invalid type"), "{text}");
    }

    #[test]
    fn nulls_are_absent() {
        let value = json!({"kind": "Pod", "apiVersion": "v1",
            "metadata": {"creationTimestamp": null, "labels": null}, "spec": null, "status": {}});
        let (pod, unknown) = unknown_fields::<Pod>(&value).unwrap();
        assert!(pod.metadata.creation_timestamp.is_none() && pod.spec.is_none());
        assert!(unknown.is_empty());
    }
}
