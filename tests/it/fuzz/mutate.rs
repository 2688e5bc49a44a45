//! Small changes of inputs: of bytes, of JSON values, and of the parts of a request.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use super::expressions;

/// What an input is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Bytes,
    Json,
    /// A line with method and path, lines of headers, an empty line, a body.
    Request,
    /// An expression, an empty line, an object.
    Expression,
}

/// Pieces of text that mean something somewhere.
const WORDS: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "9223372036854775808",
    "-9223372036854775809",
    "0.1",
    "\"\"",
    "{}",
    "[]",
    "[[[[[[[[",
    "{\"a\":",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "é",
    "\u{202e}",
    "%00",
    "%2f",
    "..",
    "/",
    "//",
    "?",
    "&",
    "=",
    ",",
    "!",
    "~1",
    "~0",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "metadata",
    "name",
    "namespace",
    "resourceVersion",
    "uid",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "labels",
    "spec",
    "status",
    "kind",
    "apiVersion",
    "generateName",
    "deletionTimestamp",
    "2026-01-01T00:00:00Z",
    "continue",
    "limit",
    "watch",
    "fieldSelector",
    "labelSelector",
    "dryRun=All",
    "force=true",
    "fieldManager=x",
    "propagationPolicy=Foreground",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/apply-patch+yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    ";as=Table;v=v1;g=meta.k8s.io",
    "k8s\0",
    "&a [*a]",
    "<<: *a",
    "!!binary",
    "|",
    "---\n",
    "self.",
    "oldSelf",
    "(",
    ")",
    "in (",
    "notin",
    ">",
    "<",
];

/// Values that rules stumble over.
fn odd(random: &mut StdRng) -> Value {
    match random.random_range(0..16) {
        0 => Value::Null,
        1 => json!(random.random::<i64>()),
        2 => json!(i64::MIN),
        3 => json!(u64::MAX),
        4 => json!(random.random_range(-2..300)),
        5 => json!(f64::MAX),
        6 => json!(""),
        7 => json!("x".repeat(random.random_range(1..400))),
        8 => json!(WORDS[random.random_range(0..WORDS.len())]),
        9 => json!(random.random_bool(0.5)),
        10 => json!([]),
        11 => json!({}),
        12 => (0..random.random_range(1..200)).fold(json!(1), |inner, _| json!([inner])),
        13 => json!({"": {"": [null, {"a": null}]}}),
        14 => json!("127.0.0.1"),
        _ => json!([1, "a", null, {"name": "a"}, {"name": "a"}]),
    }
}

pub fn mutate(form: Form, input: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    match form {
        Form::Json if random.random_bool(0.8) => {
            json_text(input, other, random).unwrap_or_else(|| bytes(input, other, random))
        }
        Form::Request if random.random_bool(0.9) => request(input, other, random),
        Form::Expression => expressions::mutate(input, other, random),
        _ => bytes(input, other, random),
    }
}

fn request(input: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let (head, body) = split(input);
    let (other_head, other_body) = split(other);
    let (mut head, mut body) = (head.to_vec(), body.to_vec());
    match random.random_range(0..10) {
        0 | 1 => head = bytes(&head, other_head, random),
        2 => head = other_head.to_vec(),
        3 => body = other_body.to_vec(),
        4 => body = bytes(&body, other_body, random),
        _ => {
            body = json_text(&body, other_body, random)
                .unwrap_or_else(|| bytes(&body, other_body, random));
        }
    }
    [&head[..], b"\n\n", &body].concat()
}

/// An input of a head and a body.
pub fn text(head: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    [head.as_bytes(), b"\n\n", body.as_ref()].concat()
}

/// The head and the body of a request.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, b""),
    }
}

fn json_text(input: &[u8], other: &[u8], random: &mut StdRng) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(input).ok()?;
    let donor: Value = serde_json::from_slice(other).unwrap_or_else(|_| odd(random));
    let count = size(&value);
    let mut at = random.random_range(0..count);
    let picked = nth(&mut value, &mut at)?;
    change(picked, &donor, random);
    Some(value.to_string().into_bytes())
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum::<usize>(),
        _ => 0,
    }
}

/// The value with this number, in the order of the text.
fn nth<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, at)),
        Value::Object(map) => map.values_mut().find_map(|item| nth(item, at)),
        _ => None,
    }
}

fn change(value: &mut Value, donor: &Value, random: &mut StdRng) {
    let part = |random: &mut StdRng| {
        let mut donor = donor.clone();
        let mut at = random.random_range(0..size(&donor));
        nth(&mut donor, &mut at).map(|found| found.take()).unwrap_or_default()
    };
    match (value, random.random_range(0..6)) {
        (Value::Object(map), 0) if !map.is_empty() => drop(remove_one(map, random)),
        (Value::Object(map), 1) => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            map.insert(word.into(), part(random));
        }
        (Value::Object(map), 2) if !map.is_empty() => {
            // A field by another's name.
            let taken = remove_one(map, random);
            let names: Vec<String> = map.keys().cloned().collect();
            if !names.is_empty() {
                map.insert(names[random.random_range(0..names.len())].clone(), taken);
            }
        }
        (Value::Array(items), 0) if !items.is_empty() => {
            items.remove(random.random_range(0..items.len()));
        }
        (Value::Array(items), 1) if !items.is_empty() => {
            let copy = items[random.random_range(0..items.len())].clone();
            items.push(copy);
        }
        (Value::Array(items), 2) => items.push(part(random)),
        (Value::String(text), 0 | 1) => {
            let changed = bytes(text.as_bytes(), b"a", random);
            *text = String::from_utf8_lossy(&changed).into_owned();
        }
        (Value::Number(number), 0) => {
            let near =
                number.as_i64().unwrap_or_default().saturating_add(random.random_range(-2..3));
            *number = near.into();
        }
        (value, 3) => *value = part(random),
        (value, _) => *value = odd(random),
    }
}

fn remove_one(map: &mut Map<String, Value>, random: &mut StdRng) -> Value {
    let names: Vec<String> = map.keys().cloned().collect();
    map.remove(&names[random.random_range(0..names.len())]).unwrap_or_default()
}

fn bytes(input: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    bytes_of(input, other, WORDS, random)
}

/// A change of some bytes; some of `words` are put in.
pub fn bytes_of(input: &[u8], other: &[u8], words: &[&str], random: &mut StdRng) -> Vec<u8> {
    let mut out = input.to_vec();
    let place = |random: &mut StdRng, length: usize| random.random_range(0..=length);
    match random.random_range(0..8) {
        0 | 1 if !out.is_empty() => {
            let at = random.random_range(0..out.len());
            out[at] ^= 1 << random.random_range(0..8);
        }
        2 if !out.is_empty() => {
            let at = random.random_range(0..out.len());
            out[at] = random.random();
        }
        3 if !out.is_empty() => {
            let (a, b) = (place(random, out.len()), place(random, out.len()));
            out.drain(a.min(b)..a.max(b));
        }
        4 if !out.is_empty() => {
            // A piece twice, or often.
            let (a, b) = (place(random, out.len()), place(random, out.len()));
            let piece = out[a.min(b)..a.max(b)].repeat(random.random_range(1..20));
            let at = place(random, out.len());
            out.splice(at..at, piece.into_iter().take(1 << 14));
        }
        5 => {
            let (at, from) = (place(random, out.len()), place(random, other.len()));
            out.truncate(at);
            out.extend_from_slice(&other[from..]);
        }
        _ => {
            let at = place(random, out.len());
            let word = words[random.random_range(0..words.len())];
            out.splice(at..at, word.bytes());
        }
    }
    out
}
