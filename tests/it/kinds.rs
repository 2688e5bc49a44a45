//! The layer of kinds: YAML in; defaulted YAML, errors, warnings or a table's row out.
//!
//! Each `tests/data/kinds/*.yaml` is a list of cases; what comes out of them is the snapshot beside
//! it (`*.snap`; `INSTA_UPDATE=always` writes it anew, to be read before it is committed):
//!
//! ```yaml
//! - name: what the case shows
//!   object: {apiVersion: v1, kind: Pod, …}   # what the user sends
//!   old: {…}                                 # the stored object: makes it an update
//!   status: true                             # the update is one of /status
//!   show: object                             # or `row`; errors and warnings are always shown
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use schemars::SchemaGenerator;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasmfleet::api::kinds::POD_SPEC;
use wasmfleet::api::kinds::pod_fields::{Row, Verdict};
use wasmfleet::api::registry::Registry;
use wasmfleet::api::resource::{KindInfo, Operation};
use wasmfleet::api::{Object, kinds};

/// The clock of all rows.
const NOW: &str = "2025-01-01T12:00:00Z";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    object: Value,
    old: Option<Value>,
    #[serde(default)]
    status: bool,
    show: Option<Show>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
enum Show {
    Object,
    Row,
}

fn info(registry: &Registry, object: &Value) -> std::sync::Arc<KindInfo> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let found = registry.by_kind(text("apiVersion"), text("kind"));
    found.unwrap_or_else(|| panic!("no kind for {object}")).clone()
}

/// The stored form of an object that a user created.
fn stored(info: &KindInfo, object: Value) -> Object {
    let status = object.get("status").cloned();
    let draft = info.rules.decode(object, None, Operation::Create).unwrap();
    assert_eq!(draft.unknown, Vec::<String>::new());
    let mut object = draft.object;
    if let Some(status) = status {
        object.set("status", status);
    }
    object
}

/// What comes out of a case, as text.
fn run(registry: &Registry, case: Case) -> String {
    let info = info(registry, &case.object);
    let mut text = format!("# {}\n", case.name);
    if case.show == Some(Show::Row) {
        let now: Timestamp = NOW.parse().unwrap();
        let cells = info.rules.row(case.object.to_string().as_bytes(), now).unwrap();
        for (column, cell) in info.rules.columns().iter().zip(cells) {
            text += &format!("{}: {cell}\n", column.name);
        }
        return text;
    }
    let old = case.old.map(|old| stored(&info, old));
    let operation = match (&old, case.status) {
        (None, _) => Operation::Create,
        (Some(_), false) => Operation::Update,
        (Some(_), true) => Operation::UpdateStatus,
    };
    let draft = info.rules.decode(case.object, old.as_ref(), operation).unwrap();
    assert_eq!(draft.unknown, Vec::<String>::new(), "{}", case.name);
    let again = info.rules.redefault(draft.clone()).unwrap().object;
    assert_eq!(again, draft.object, "{}: the defaults are not idempotent", case.name);
    let errors = info.rules.validate(&draft, operation);
    let warnings = info.rules.warnings(&draft);
    text.extend(errors.iter().map(|error| format!("error: {error}\n")));
    text.extend(warnings.iter().map(|warning| format!("warning: {warning}\n")));
    if errors.is_empty() && warnings.is_empty() {
        text += "fine\n";
    }
    if case.show == Some(Show::Object) {
        text += &serde_yaml::to_string(&draft.object.into_value()).unwrap();
    }
    text
}

#[test]
fn cases() {
    let registry = Registry::builtin();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kinds");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    let mut without_row: BTreeSet<String> =
        kinds::all().iter().filter(|k| !k.meta.review).map(kind_and_version).collect();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for file in files {
            let yaml = std::fs::read_to_string(&file).unwrap();
            let cases: Vec<Case> = serde_yaml::from_str(&yaml)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            for case in cases.iter().filter(|case| case.show == Some(Show::Row)) {
                without_row.remove(&kind_and_version(&info(&registry, &case.object)));
            }
            let texts: Vec<String> = cases.into_iter().map(|case| run(&registry, case)).collect();
            let name = file.file_stem().unwrap().to_str().unwrap();
            insta::assert_snapshot!(name, texts.join("\n"));
        }
    });
    assert!(without_row.is_empty(), "no case shows a row of {without_row:?}");
}

fn kind_and_version(info: &KindInfo) -> String {
    format!("{} {}", info.gvr.api_version(), info.kind)
}

#[test]
fn every_field_of_a_pod_spec_has_a_verdict() {
    let mut generator = SchemaGenerator::default();
    let schema = generator.subschema_for::<k8s_openapi::api::core::v1::PodSpec>();
    let definitions = generator.definitions().clone();
    let mut wrong = Vec::new();
    compare(POD_SPEC, schema.as_value(), &definitions, "spec", &mut wrong);
    assert_eq!(wrong, Vec::<String>::new());
}

/// Every property of the schema has a row, every row a property, down to where rows end.
fn compare(
    rows: &[Row],
    schema: &Value,
    definitions: &Map<String, Value>,
    path: &str,
    wrong: &mut Vec<String>,
) {
    let schema = resolve(schema, definitions);
    let Some(properties) = schema["properties"].as_object() else {
        return wrong.push(format!("{path} has no properties"));
    };
    let rows_here: BTreeSet<&str> = rows.iter().map(|r| r.field).collect();
    assert_eq!(rows_here.len(), rows.len(), "{path} has a row twice");
    let fields: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
    wrong.extend(fields.difference(&rows_here).map(|f| format!("{path}.{f} has no row")));
    wrong.extend(rows_here.difference(&fields).map(|f| format!("{path}.{f} is no field")));
    for row in rows {
        let silent =
            matches!(row.verdict, Verdict::Honoured | Verdict::Within(_) | Verdict::Keys(_));
        if silent != row.text.is_empty() {
            wrong.push(format!("{path}.{} must say why, if it is not honoured", row.field));
        }
        if let (Verdict::Within(rows), Some(property)) = (row.verdict, properties.get(row.field)) {
            compare(rows, property, definitions, &format!("{path}.{}", row.field), wrong);
        }
    }
}

fn resolve<'a>(mut schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    loop {
        schema = if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            definitions.get(name).unwrap_or_else(|| panic!("no definition {name}"))
        } else if let Some(first) = schema["allOf"].get(0) {
            first
        } else if schema.get("items").is_some() {
            &schema["items"]
        } else {
            return schema;
        };
    }
}

/// What clients and tables rely on, for each kind.
#[test]
fn rows_of_the_registry_are_complete() {
    let mut short_names = BTreeSet::new();
    for info in kinds::all() {
        let name = info.kind.to_string();
        assert!(!info.meta.singular.is_empty(), "{name} has no singular name");
        // Two forms of one kind share their names.
        for short in info.meta.short_names.iter().filter(|_| !info.is_view()) {
            assert!(short_names.insert(*short), "{short} is used twice");
        }
        let columns = info.rules.columns();
        assert!(columns.iter().any(|c| c.format == "name"), "{name} has no name column");
        let object = json!({"apiVersion": info.gvr.api_version(), "kind": name});
        let now: Timestamp = NOW.parse().unwrap();
        let cells = info.rules.row(object.to_string().as_bytes(), now).unwrap();
        assert_eq!(cells.len(), columns.len(), "{name}: an empty object's row");
        let fields = info.rules.fields(object.to_string().as_bytes(), info.meta.selectable);
        assert_eq!(fields.unwrap().len(), info.meta.selectable.len());
    }
}

/// Kinds whose fields are not in a `spec`.
const WITHOUT_SPEC: &[&str] = &[
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "Event",
    "EndpointSlice",
    "Endpoints",
    "ComponentStatus",
];

/// Nothing that a client sends may stop the server: objects of every kind with nothing in them are
/// refused or defaulted, never a panic.
#[test]
fn empty_objects_are_answered() {
    for info in kinds::all() {
        for spec in [json!({}), json!(null)] {
            let object = json!({
                "apiVersion": info.gvr.api_version(), "kind": *info.kind,
                "metadata": {"name": "x", "namespace": "default"}, "spec": spec, "status": null,
            });
            let mut object = object;
            if WITHOUT_SPEC.contains(&&*info.kind) {
                object.as_object_mut().unwrap().remove("spec");
                object.as_object_mut().unwrap().remove("status");
            }
            let old = info.rules.decode(object.clone(), None, Operation::Create).unwrap();
            info.rules.validate(&old, Operation::Create);
            info.rules.warnings(&old);
            for operation in [Operation::Update, Operation::UpdateStatus] {
                let old = Some(&old.object);
                let new = info.rules.decode(object.clone(), old, operation).unwrap();
                info.rules.validate(&new, operation);
            }
        }
    }
}

/// What a pod cannot have is told of where its template is written, not of pods that nobody looks at.
#[test]
fn every_template_is_warned_of_as_its_pods_are() {
    let registry = Registry::builtin();
    let template = json!({
        "metadata": {"labels": {"app": "web"}, "annotations": {"wasmfleet.dev/odd": ""}},
        "spec": {"containers": [{"name": "web", "image": "web:v1", "command": ["sh"],
            "workingDir": "/x"}]},
    });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
        "spec": template["spec"]});
    let told = |object: Value| {
        let info = info(&registry, &object);
        let draft = info.rules.decode(object, None, Operation::Create).unwrap();
        info.rules.warnings(&draft)
    };
    let of_pod = told(pod);
    assert!(of_pod.len() > 1, "{of_pod:?}");
    let spec = json!({"template": template});
    let kinds = [
        ("apps/v1", "Deployment", spec.clone()),
        ("apps/v1", "DaemonSet", spec.clone()),
        ("apps/v1", "StatefulSet", spec.clone()),
        ("apps/v1", "ReplicaSet", spec.clone()),
        ("v1", "ReplicationController", spec.clone()),
        ("batch/v1", "Job", spec.clone()),
        ("batch/v1", "CronJob", json!({"jobTemplate": {"spec": spec}})),
        ("v1", "PodTemplate", json!(null)),
    ];
    for (version, kind, spec) in kinds {
        let at = match kind {
            "CronJob" => "spec.jobTemplate.spec.template.",
            "PodTemplate" => "template.",
            _ => "spec.template.",
        };
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
        match spec.is_null() {
            true => object["template"] = template.clone(),
            false => object["spec"] = spec,
        }
        let wanted: Vec<String> = of_pod.iter().map(|text| format!("{at}{text}")).collect();
        assert_eq!(told(object), wanted, "{kind}");
    }
}

/// Comparing each element with each would take minutes.
#[test]
fn long_lists_are_answered_soon() {
    const COUNT: i32 = 50_000;
    let registry = Registry::builtin();
    let list = |item: fn(i32) -> Value| (0..COUNT).map(item).collect::<Vec<Value>>();
    let env = list(|n| json!({"name": format!("V{n}"), "value": ""}));
    let ports = list(|n| json!({"containerPort": n + 1, "protocol": "TCP"}));
    let tolerations = list(|n| json!({"key": format!("k{n}"), "operator": "Exists"}));
    let taints = list(|n| json!({"key": format!("k{n}"), "effect": "NoSchedule"}));
    let addresses = list(|n| json!({"type": "InternalIP", "address": n.to_string()}));
    let objects = [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"tolerations": tolerations,
                "containers": [{"name": "a", "image": "a:1", "env": env, "ports": ports}]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "spec": {"taints": taints}, "status": {"addresses": addresses}}),
    ];
    for object in objects {
        let info = info(&registry, &object);
        let old = info.rules.decode(object.clone(), None, Operation::Create).unwrap();
        info.rules.validate(&old, Operation::Create);
        assert!(info.rules.warnings(&old).len() <= 50);
        for operation in [Operation::Update, Operation::UpdateStatus] {
            let new = info.rules.decode(object.clone(), Some(&old.object), operation).unwrap();
            info.rules.validate(&new, operation);
        }
    }
}

#[test]
fn selectable_fields() {
    let registry = Registry::builtin();
    let rows: &[(Value, &[(&str, &str)])] = &[
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {"nodeName": "n", "hostNetwork": false}, "status": {"phase": "Running",
                "podIP": "127.64.0.2", "podIPs": [{"ip": "127.64.0.2"}]}}),
            &[
                ("metadata.name", "p"),
                ("spec.nodeName", "n"),
                ("spec.host", "n"),
                ("spec.hostNetwork", "false"),
                ("status.phase", "Running"),
                ("status.podIPs", "127.64.0.2"),
                ("status.nominatedNodeName", ""),
            ],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}),
            &[("spec.unschedulable", "false")],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
                "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
                "reportingComponent": "scheduler", "type": "Normal"}),
            &[
                ("involvedObject.kind", "Pod"),
                ("involvedObject.uid", ""),
                ("source", "scheduler"),
                ("type", "Normal"),
            ],
        ),
    ];
    for (object, expected) in rows {
        let info = info(&registry, object);
        let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        let seen = info.rules.fields(object.to_string().as_bytes(), &names).unwrap();
        let values: Vec<&str> = expected.iter().map(|(_, value)| *value).collect();
        assert_eq!(seen, values, "{names:?}");
    }
}
