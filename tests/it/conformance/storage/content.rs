//! Files of volumes that are made of objects: `common/storage/configmap_volume.go`,
//! `secrets_volume.go`, `projected_configmap.go`, `projected_secret.go`, `projected_combined.go`. Their
//! tests differ in the kind of volume only, which is a parameter here.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::workloads::{BUSYBOX, output, run};
use crate::conformance::{Case, Context, Patch, case};

/// Kinds of volumes.
const MAP: usize = 0;
const SECRET: usize = 1;
const PROJECTED_MAP: usize = 2;
const PROJECTED_SECRET: usize = 3;

pub const CASES: &[Case] = &[
    case!("ConfigMap should be consumable from pods in volume", plain::<MAP>),
    case!("ConfigMap should be consumable from pods in volume with mappings", mapped::<MAP>),
    case!("ConfigMap should be consumable in multiple volumes in the same pod", twice::<MAP>),
    case!("ConfigMap updates should be reflected in volume", updated::<MAP>).within(300),
    case!("ConfigMap optional updates should be reflected in volume", optional::<MAP>).within(300),
    case!("ConfigMap binary data should be reflected in volume", binary),
    case!("Secrets should be consumable from pods in volume", plain::<SECRET>),
    case!("Secrets should be consumable from pods in volume with mappings", mapped::<SECRET>),
    case!("Secrets should be consumable in multiple volumes in a pod", twice::<SECRET>),
    case!("Secrets optional updates should be reflected in volume", optional::<SECRET>).within(300),
    case!(
        "Secrets should be able to mount in a volume regardless of a different secret existing with \
         same name in different namespace",
        other_namespace
    ),
    case!("Projected configMap should be consumable from pods in volume", plain::<PROJECTED_MAP>),
    case!(
        "Projected configMap should be consumable from pods in volume with mappings",
        mapped::<PROJECTED_MAP>
    ),
    case!(
        "Projected configMap should be consumable in multiple volumes in the same pod",
        twice::<PROJECTED_MAP>
    ),
    case!("Projected configMap updates should be reflected in volume", updated::<PROJECTED_MAP>)
        .within(300),
    case!(
        "Projected configMap optional updates should be reflected in volume",
        optional::<PROJECTED_MAP>
    )
    .within(300),
    case!("Projected secret should be consumable from pods in volume", plain::<PROJECTED_SECRET>),
    case!(
        "Projected secret should be consumable from pods in volume with mappings",
        mapped::<PROJECTED_SECRET>
    ),
    case!(
        "Projected secret should be consumable in multiple volumes in a pod",
        twice::<PROJECTED_SECRET>
    ),
    case!(
        "Projected secret optional updates should be reflected in volume",
        optional::<PROJECTED_SECRET>
    )
    .within(300),
    case!(
        "Projected combined should project all components that make up the projection API",
        combined
    ),
];

/// Between two looks into a container, and how long a change may take (kubelet's sync period, and
/// then some).
const LOOK_INTERVAL: Duration = Duration::from_secs(4);
const LOOKS: usize = 50;

fn is_secret(kind: usize) -> bool {
    kind == SECRET || kind == PROJECTED_SECRET
}

fn resource(kind: usize) -> &'static str {
    if is_secret(kind) { "v1/secrets" } else { "v1/configmaps" }
}

/// What holds these texts.
fn object(kind: usize, name: &str, data: Value) -> Value {
    let field = if is_secret(kind) { "stringData" } else { "data" };
    json!({"metadata": {"name": name}, field: data})
}

/// A volume of an object, with further fields of its source.
pub fn volume(kind: usize, volume: &str, object: &str, more: Value) -> Value {
    let key = if kind == SECRET { "secretName" } else { "name" };
    let mut source = json!({ key: object });
    source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    match kind {
        MAP => json!({"name": volume, "configMap": source}),
        SECRET => json!({"name": volume, "secret": source}),
        PROJECTED_MAP => {
            json!({"name": volume, "projected": {"sources": [{"configMap": source}]}})
        }
        _ => json!({"name": volume, "projected": {"sources": [{"secret": source}]}}),
    }
}

/// A pod with these volumes, each mounted at `/etc/<its name>`, that does what its arguments say.
pub fn pod(name: &str, volumes: &[Value], args: &[String]) -> Value {
    let mounts: Vec<Value> = volumes
        .iter()
        .map(|volume| {
            let name = volume["name"].as_str().unwrap_or_default();
            json!({"name": name, "mountPath": format!("/etc/{name}"), "readOnly": true})
        })
        .collect();
    json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0, "volumes": volumes,
        "containers": [{"name": "test", "image": BUSYBOX, "args": args, "volumeMounts": mounts}]}})
}

/// A pod that runs on.
pub fn sleeping(name: &str, volumes: &[Value]) -> Value {
    pod(name, volumes, &["sleep=3600000".into()])
}

/// A pod's volumes have these files: paths and lines.
pub async fn has_files(context: &Context, volumes: &[Value], files: &[(&str, &str)]) -> Result<()> {
    let args: Vec<String> = files.iter().map(|(path, _)| format!("cat={path}")).collect();
    let told = output(context, &pod("pod-volumes", volumes, &args)).await?;
    for (path, text) in files {
        // A file without an end of line is followed by what is printed next.
        let after = told.split(&format!("=cat={path}\n")).nth(1).unwrap_or_default();
        ensure!(after.starts_with(text), "{path} is not {text:?}:\n{told}");
    }
    Ok(())
}

/// What a running pod's container reads at a path: its text, or why not.
pub async fn read(context: &Context, pod: &str, path: &str) -> Result<Result<String, String>> {
    let told = context.kubectl(&format!("exec {pod} -- busybox cat={path}"), "").await?;
    Ok(if told.code == 0 { Ok(told.stdout) } else { Err(told.stderr) })
}

/// Reads until the container finds it as wanted.
pub async fn reads(
    context: &Context,
    pod: &str,
    path: &str,
    wanted: impl Fn(&Result<String, String>) -> bool,
) -> Result<()> {
    let mut last = Ok(String::new());
    for _ in 0..LOOKS {
        last = read(context, pod, path).await?;
        if wanted(&last) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    anyhow::bail!("{path} in {pod} is at last {last:?}")
}

/// Wants a file to have a text.
pub fn has(text: &str) -> impl Fn(&Result<String, String>) -> bool {
    move |found| found.as_ref().is_ok_and(|found| found.contains(text))
}

fn values() -> Value {
    json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"})
}

async fn plain<const KIND: usize>(context: &Context) -> Result<()> {
    context.own(resource(KIND)).create(&object(KIND, "test-volume", values())).await?;
    let volumes = [volume(KIND, "vol", "test-volume", json!({}))];
    has_files(context, &volumes, &[("/etc/vol/data-1", "value-1")]).await
}

async fn mapped<const KIND: usize>(context: &Context) -> Result<()> {
    context.own(resource(KIND)).create(&object(KIND, "test-volume-map", values())).await?;
    let items = json!({"items": [{"key": "data-2", "path": "path/to/data-2"}]});
    let volumes = [volume(KIND, "vol", "test-volume-map", items)];
    has_files(context, &volumes, &[("/etc/vol/path/to/data-2", "value-2")]).await
}

async fn twice<const KIND: usize>(context: &Context) -> Result<()> {
    context.own(resource(KIND)).create(&object(KIND, "test-volume", values())).await?;
    let one = |name: &str| volume(KIND, name, "test-volume", json!({}));
    let files = [("/etc/vol/data-1", "value-1"), ("/etc/vol-2/data-1", "value-1")];
    has_files(context, &[one("vol"), one("vol-2")], &files).await
}

async fn updated<const KIND: usize>(context: &Context) -> Result<()> {
    let objects = context.own(resource(KIND));
    let data = json!({"data-1": "value-1"});
    objects.create(&object(KIND, "test-upd", data)).await?;
    let volumes = [volume(KIND, "vol", "test-upd", json!({}))];
    run(&context.own("v1/pods"), &sleeping("pod-updates", &volumes)).await?;
    reads(context, "pod-updates", "/etc/vol/data-1", has("value-1")).await?;
    let patch = json!({"data": {"data-1": "value-2"}});
    objects.patch("test-upd", Patch::Merge, &patch).await?;
    reads(context, "pod-updates", "/etc/vol/data-1", has("value-2")).await
}

/// One object goes, one changes and one comes, while a pod has them mounted.
async fn optional<const KIND: usize>(context: &Context) -> Result<()> {
    let objects = context.own(resource(KIND));
    let data = || json!({"data-1": "value-1"});
    objects.create(&object(KIND, "opt-del", data())).await?;
    objects.create(&object(KIND, "opt-upd", data())).await?;
    let one = |name: &str, of: &str| volume(KIND, name, of, json!({"optional": true}));
    let volumes = [one("delete", "opt-del"), one("update", "opt-upd"), one("create", "opt-create")];
    run(&context.own("v1/pods"), &sleeping("pod-optional", &volumes)).await?;
    let pod = "pod-optional";
    let is_missing = |found: &Result<String, String>| found.is_err();
    reads(context, pod, "/etc/create/data-1", is_missing).await?;
    reads(context, pod, "/etc/update/data-3", is_missing).await?;
    reads(context, pod, "/etc/delete/data-1", has("value-1")).await?;
    objects.delete("opt-del").await?;
    let patch = match is_secret(KIND) {
        true => json!({"data": {"data-1": null}, "stringData": {"data-3": "value-3"}}),
        false => json!({"data": {"data-1": null, "data-3": "value-3"}}),
    };
    objects.patch("opt-upd", Patch::Merge, &patch).await?;
    objects.create(&object(KIND, "opt-create", data())).await?;
    reads(context, pod, "/etc/create/data-1", has("value-1")).await?;
    reads(context, pod, "/etc/update/data-3", has("value-3")).await?;
    reads(context, pod, "/etc/delete/data-1", is_missing).await
}

/// Our guests print text, so the bytes come out by kubectl's copy.
async fn binary(context: &Context) -> Result<()> {
    let bytes = [0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff];
    let map = json!({"metadata": {"name": "test-upd"}, "data": {"data-1": "value-1"},
        "binaryData": {"dump.bin": "3sr+utD+/w=="}});
    context.own("v1/configmaps").create(&map).await?;
    let volumes = [volume(MAP, "vol", "test-upd", json!({}))];
    run(&context.own("v1/pods"), &sleeping("pod-binary", &volumes)).await?;
    reads(context, "pod-binary", "/etc/vol/data-1", has("value-1")).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("dump.bin");
    let words = format!("cp pod-binary:/etc/vol/dump.bin {}", file.display());
    let told = context.kubectl(&words, "").await?;
    ensure!(told.code == 0, "{}", told.told());
    ensure!(std::fs::read(file)? == bytes, "other bytes");
    Ok(())
}

async fn other_namespace(context: &Context) -> Result<()> {
    let other = context.create_namespace("secret-namespace", json!({})).await?;
    let mut foreign = object(SECRET, "test-volume", json!({"data-1": "other"}));
    foreign["metadata"]["namespace"] = other.as_str().into();
    context.within(&other, "v1/secrets").create(&foreign).await?;
    plain::<SECRET>(context).await
}

async fn combined(context: &Context) -> Result<()> {
    let map = object(MAP, "all-map", json!({"configmap-data": "configmap-value-1"}));
    context.own("v1/configmaps").create(&map).await?;
    let secret = object(SECRET, "all-secret", json!({"secret-data": "secret-value-1"}));
    context.own("v1/secrets").create(&secret).await?;
    let name = json!({"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}});
    let sources = json!([{"downwardAPI": {"items": [name]}},
        {"secret": {"name": "all-secret",
            "items": [{"key": "secret-data", "path": "secret-data"}]}},
        {"configMap": {"name": "all-map",
            "items": [{"key": "configmap-data", "path": "configmap-data"}]}}]);
    let volumes = [json!({"name": "all", "projected": {"sources": sources}})];
    let files = [
        ("/etc/all/podname", "pod-volumes"),
        ("/etc/all/secret-data", "secret-value-1"),
        ("/etc/all/configmap-data", "configmap-value-1"),
    ];
    has_files(context, &volumes, &files).await
}
