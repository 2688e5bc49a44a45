//! The protobuf decoder against upstream's golden pairs, whole and mutated.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wasmfleet::api::proto::decode;

fn golden_pairs(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut pairs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pairs.retain(|path| path.extension().is_some_and(|extension| extension == "pb"));
    pairs.sort();
    pairs
}

fn package_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn first_difference(path: &str, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let get = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                first_difference(&format!("{path}.{key}"), &get(a), &get(b))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(index, (a, b))| first_difference(&format!("{path}[{index}]"), a, b)),
        _ if left == right => None,
        _ => Some(format!("{path}: {left} instead of {right}")),
    }
}

#[test]
fn golden_pairs_decode_to_equal_json() {
    let mut directories = vec![package_path("tests/data/golden")];
    // The whole collection, where a development machine has it beside the package.
    directories.extend(Some(package_path("../shared/data/golden-v1.35")).filter(|d| d.is_dir()));
    let mut failures = Vec::new();
    for directory in directories {
        let pairs = golden_pairs(&directory);
        assert!(pairs.len() >= 20, "{directory:?}");
        for path in pairs {
            // An event of a watch is sent by servers only, and its envelope has no kind.
            if path.ends_with("core.v1.WatchEvent.pb") {
                continue;
            }
            let expected = std::fs::read(path.with_extension("json")).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            match decode(&std::fs::read(&path).unwrap()) {
                Ok(decoded) => failures.extend(
                    first_difference("", &decoded, &expected)
                        .map(|difference| format!("{path:?}{difference}")),
                ),
                Err(error) => failures.push(format!("{path:?}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

proptest::proptest! {
    #[test]
    fn mutated_bodies_never_panic(
        which in 0usize..1000,
        edits in proptest::collection::vec((0usize..20_000, proptest::num::u8::ANY), 1..20),
        cut in 0usize..20_000,
    ) {
        let pairs = golden_pairs(&package_path("tests/data/golden"));
        let mut bytes = std::fs::read(&pairs[which % pairs.len()]).unwrap();
        for (at, byte) in edits {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        let _ = decode(&bytes);
        bytes.truncate(cut % bytes.len());
        let _ = decode(&bytes);
    }
}
