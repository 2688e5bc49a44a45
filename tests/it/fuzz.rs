//! Fuzzing on stable Rust, without instrumentation: inputs are made from a kept corpus by mutations
//! that know JSON and HTTP, and nothing may panic, nor any request be answered with a 500.
//!
//! Each target has a folder in `tests/fuzz/corpus`, whose files are tried first; what is found is
//! written there, as small as it gets. `WASMFLEET_FUZZ_SECONDS` is the time a target takes (1 by
//! default), `WASMFLEET_FUZZ_SEED` repeats a run.

mod definitions;
mod engine;
mod expressions;
mod grammar;
mod mutate;
mod pipeline;

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::api::resource::Operation;
use wasmfleet::api::selector::{FieldSelector, Selector};
use wasmfleet::api::{ApiError, jsonpath, patch, proto, quantity, strict};

use engine::{Verdict, fuzz};
use mutate::Form;

/// The files of a folder below `tests/data` with an extension, as seeds.
fn data(folder: &str, extension: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The objects of the cases of `tests/data/kinds`.
fn objects() -> Vec<Value> {
    let mut all: Vec<Value> =
        data("golden", "json").iter().map(|json| serde_json::from_slice(json).unwrap()).collect();
    for file in data("kinds", "yaml") {
        let cases: Vec<Value> = serde_yaml::from_slice(&file).unwrap();
        all.extend(cases.into_iter().flat_map(|mut case| {
            ["object", "old"].map(|field| case[field].take()).into_iter().filter(Value::is_object)
        }));
    }
    all
}

fn texts(values: Vec<Value>) -> Vec<Vec<u8>> {
    values.into_iter().map(|value| value.to_string().into_bytes()).collect()
}

/// A refusal must be one of the client's faults.
fn is_clients(error: &ApiError) -> Verdict {
    match error.code {
        500 => Err(format!("500: {}", error.message)),
        _ => Ok(()),
    }
}

#[test]
fn protobuf() {
    fuzz("protobuf", Form::Bytes, data("golden", "pb"), |bytes| {
        let _ = proto::decode(bytes);
        Ok(())
    });
}

/// Whatever a body says, its kind's rules decode it or refuse it; what they let through, they can
/// show.
#[test]
fn kinds() {
    let registry = Registry::builtin();
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    fuzz("kinds", Form::Json, texts(objects()), |bytes| {
        let Ok(parsed) = strict::parse(bytes) else { return Ok(()) };
        let text = |field: &str| parsed.value[field].as_str().unwrap_or_default();
        if !parsed.value.is_object() {
            return Ok(());
        }
        let Some(info) = registry.by_kind(text("apiVersion"), text("kind")) else { return Ok(()) };
        if info.meta.review {
            return Ok(());
        }
        for operation in [Operation::Create, Operation::Update] {
            let old = match operation {
                Operation::Create => None,
                _ => info.rules.decode(parsed.value.clone(), None, Operation::Create).ok(),
            };
            let old = old.as_ref().map(|draft| &draft.object);
            let draft = match info.rules.decode(parsed.value.clone(), old, operation) {
                Ok(draft) => draft,
                Err(error) => return is_clients(&error),
            };
            let draft = match info.rules.redefault(draft) {
                Ok(draft) => draft,
                Err(error) => return is_clients(&error),
            };
            info.rules.warnings(&draft);
            if !info.rules.validate(&draft, operation).is_empty() {
                return Ok(());
            }
            let raw = draft.object.to_json();
            let fields: Vec<&str> = info.selectable.iter().map(|field| &**field).collect();
            let row = info.rules.row(&raw, now).map_err(|e| e.message)?;
            if row.len() != info.rules.columns().len() {
                return Err("a row without a cell for each column".into());
            }
            info.rules.fields(&raw, &fields).map_err(|e| e.message)?;
        }
        Ok(())
    });
}

#[test]
fn yaml() {
    let mut seeds = data("kinds", "yaml");
    seeds.push(
        b"a: &x [1, *x]\nb: !!binary aGk=\n? {c: d}\n: |\n  text\n--- \n<<: {e: f}\n".to_vec(),
    );
    fuzz("yaml", Form::Bytes, seeds, |bytes| {
        let _ = strict::parse_yaml(bytes);
        Ok(())
    });
}

#[test]
fn json() {
    fuzz("json", Form::Json, texts(objects()), |bytes| {
        let _ = strict::duplicate_fields(bytes);
        let Ok(parsed) = strict::parse(bytes) else { return Ok(()) };
        // What is accepted can be written, and is the same when it is read again.
        let again = strict::parse(parsed.value.to_string().as_bytes());
        match again {
            Ok(again) if again.value == parsed.value => Ok(()),
            other => Err(format!("{:?} became {:?}", parsed.value, other.map(|p| p.value))),
        }
    });
}

#[test]
fn selectors() {
    let seeds = [
        "a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2",
        "x.io/a==b",
        "a in ()",
        "metadata.name=x,spec.nodeName!=y",
        "status.phase!=Failed,status.phase!=Succeeded",
        "a=\\,b\\=\\\\",
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    fuzz("selectors", Form::Bytes, seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
        if let Ok(selector) = Selector::parse(text) {
            for value in [None, Some(""), Some("b"), Some("7")] {
                selector.matches_with(|_| value);
            }
        }
        if let Ok(selector) = FieldSelector::parse(text) {
            selector.matches(|_| Some("x"));
        }
        Ok(())
    });
}

/// `{"original": …, "patch": …}`.
#[test]
fn patches() {
    let seeds = vec![
        json!({"original": {"a": {"b": [1, {"c": "d"}]}}, "patch": [
            {"op": "test", "path": "/a/b/0", "value": 1}, {"op": "add", "path": "/a/b/-", "value": 2},
            {"op": "move", "from": "/a/b/1", "path": "/x~1y"}, {"op": "remove", "path": "/a/b/0"},
            {"op": "copy", "from": "/a", "path": "/z"}, {"op": "replace", "path": "", "value": {}}]}),
        json!({"original": {"a": {"b": 1}, "c": [1]}, "patch": {"a": {"b": null, "d": {"e": null}}, "c": {"f": 1}}}),
    ];
    fuzz("patches", Form::Json, texts(seeds), |bytes| {
        let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
        if !value.is_object() {
            return Ok(());
        }
        let (original, change) = (value["original"].take(), value["patch"].take());
        if let Err(error) = patch::json_patch(&original, &change)
            && error.code() >= 500
        {
            return Err(format!("{error}"));
        }
        // RFC 7386: a patch of its own result changes nothing.
        if let Ok(once) = patch::merge_patch(&original, &change) {
            match patch::merge_patch(&once, &change) {
                Ok(twice) if twice == once => {}
                other => return Err(format!("{once} became {other:?}")),
            }
        }
        Ok(())
    });
}

/// `{"original": …, "patch": …}`; the original says its kind.
#[test]
fn strategic_patches() {
    let directives = json!({
        "metadata": {"labels": {"$patch": "replace", "a": "b"}, "finalizers": ["y"],
            "$deleteFromPrimitiveList/finalizers": ["x"], "annotations": null},
        "spec": {"$retainKeys": ["containers", "type"], "replicas": 3,
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "$patch": "delete"},
                {"name": "b", "image": "c", "env": [{"name": "d", "value": "e"}]}],
            "ports": [{"port": 80, "$patch": "merge"}, {"$patch": "replace"}]}});
    let seeds = objects().into_iter().flat_map(|object| {
        let own = json!({"original": object, "patch": object});
        [own, json!({"original": object, "patch": directives})]
    });
    fuzz("strategic", Form::Json, texts(seeds.collect()), |bytes| {
        let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Ok(()) };
        if !value.is_object() {
            return Ok(());
        }
        let (original, change) = (value["original"].take(), value["patch"].take());
        let text = |field: &str| original[field].as_str().unwrap_or_default();
        let (group, version) =
            text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let made =
            patch::strategic_merge((group, version, text("kind")), original.clone(), &change);
        match made {
            Err(error) if error.code() >= 500 => Err(format!("{error}")),
            _ => Ok(()),
        }
    });
}

/// Small languages: quantities, JSONPath.
#[test]
fn texts_of_fields() {
    let seeds = [
        "1.5Gi",
        "-100m",
        "12e6",
        ".5",
        "9223372036854775807",
        "1E",
        "0.000000001n",
        "{.spec.containers[*].name}",
        "{range .items[?(@.a==\"b\")]}{.c[0:2:1]}{\"\\n\"}{end}",
        "{..a['b.c']}",
        ".spec.x",
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    let object = json!({"spec": {"containers": [{"name": "a"}], "x": [1, [2], {"a": "b"}]},
        "items": [{"a": "b", "c": [1, 2, 3]}]});
    fuzz("texts", Form::Bytes, seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
        if let Ok(found) = quantity::Quantity::parse(text) {
            let shown = found.to_string();
            match quantity::Quantity::parse(&shown) {
                Ok(again) if again == found && again.to_string() == shown => {}
                other => return Err(format!("{text:?} is {shown:?}, which is {other:?}")),
            }
            let _ = (found.milli(), found.value(), found.ratio(found), found.sign());
        }
        if let Ok(template) = jsonpath::Template::parse(text) {
            let _ = (template.values(&object), template.render(&object));
        }
        Ok(())
    });
}

/// Whole requests; see [`pipeline`].
#[test]
fn requests() {
    let mut pipeline = pipeline::Pipeline::new();
    let seeds = pipeline::seeds(objects(), data("golden", "pb"));
    fuzz("requests", Form::Request, seeds, |bytes| pipeline.run(bytes));
}

/// Expressions in CEL; see [`expressions`].
#[test]
fn cel() {
    fuzz("cel", Form::Expression, expressions::seeds(), expressions::run);
}

/// Definitions of kinds with their objects; see [`definitions`].
#[test]
fn custom() {
    fuzz("custom", Form::Json, definitions::seeds(), definitions::run);
}

/// The grammar speaks the language: most of what it makes compiles.
#[test]
fn most_expressions_of_the_grammar_compile() {
    let mut random: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(1);
    let made = (0..500).filter(|_| expressions::compiles(&grammar::expression(&mut random)));
    assert!(made.count() > 250);
}

/// What is read of a SPDY connection does not depend on where its bytes are cut, and nothing panics.
#[test]
fn spdy() {
    use wasmfleet::apiserver::spdy::frame::{Decoder, Encoder, Event, ResetCode};
    use wasmfleet::apiserver::spdy::{SpdyError, frame};
    fn read(bytes: &[u8], piece: usize) -> (Vec<Event>, usize, Result<(), SpdyError>) {
        let (mut decoder, mut events, mut data) = (Decoder::default(), Vec::new(), 0);
        for bytes in bytes.chunks(piece) {
            decoder.push(bytes);
            loop {
                match decoder.take() {
                    Ok(None) => break,
                    Ok(Some(Event::Data { bytes, .. })) => data += bytes.len(),
                    Ok(Some(event)) => events.push(event),
                    Err(error) => return (events, data, Err(error)),
                }
            }
        }
        (events, data, Ok(()))
    }
    let mut encoder = Encoder::default();
    let mut seed = encoder.reply(1).to_vec();
    // A stream that is opened with a stored block of headers: streamtype, error.
    let headers = b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error";
    let mut block = vec![0x78, 0x01, 0, headers.len() as u8, 0, !(headers.len() as u8), 0xff];
    block.extend_from_slice(headers);
    let mut open = vec![0x80, 3, 0, 1, 0, 0, 0, 10 + block.len() as u8, 0, 0, 0, 1];
    open.extend_from_slice(&[0; 6]);
    open.extend_from_slice(&block);
    for more in [frame::data(1, b"hello", true), frame::ping(3), frame::reset(1, ResetCode::Cancel)]
    {
        seed.extend_from_slice(&more);
        open.extend_from_slice(&more);
    }
    assert!(read(&open, 1).2.is_ok(), "{:?}", read(&open, 1));
    fuzz("spdy", Form::Bytes, vec![seed, open], |bytes| {
        let whole = read(bytes, bytes.len().max(1));
        for piece in [1, 5] {
            let cut = read(bytes, piece);
            if cut != whole {
                return Err(format!("{cut:?} in pieces of {piece}, {whole:?} as one"));
            }
        }
        Ok(())
    });
}
