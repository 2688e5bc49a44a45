//! `common/storage/downwardapi_volume.go` and `projected_downwardapi.go`: the same files in two kinds of
//! volumes, which are a parameter here.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::content::{has, pod, reads, sleeping};
use crate::conformance::workloads::{output, run};
use crate::conformance::{Case, Context, Patch, case};

const PLAIN: bool = false;
const PROJECTED: bool = true;

pub const CASES: &[Case] = &[
    case!("Downward API volume should provide podname only", podname::<PLAIN>),
    case!("Downward API volume should provide container's cpu limit", cpu_limit::<PLAIN>),
    case!("Downward API volume should provide container's cpu request", cpu_request::<PLAIN>),
    case!("Downward API volume should provide container's memory limit", memory_limit::<PLAIN>),
    case!("Downward API volume should provide container's memory request", memory_request::<PLAIN>),
    case!(
        "Downward API volume should provide node allocatable (cpu) as default cpu limit if the limit \
         is not set",
        default_cpu::<PLAIN>
    ),
    case!(
        "Downward API volume should provide node allocatable (memory) as default memory limit if the \
         limit is not set",
        default_memory::<PLAIN>
    ),
    case!("Downward API volume should update labels on modification", labels::<PLAIN>).within(300),
    case!("Downward API volume should update annotations on modification", annotations::<PLAIN>)
        .within(300),
    case!("Projected downwardAPI should provide podname only", podname::<PROJECTED>),
    case!("Projected downwardAPI should provide container's cpu limit", cpu_limit::<PROJECTED>),
    case!("Projected downwardAPI should provide container's cpu request", cpu_request::<PROJECTED>),
    case!(
        "Projected downwardAPI should provide container's memory limit",
        memory_limit::<PROJECTED>
    ),
    case!(
        "Projected downwardAPI should provide container's memory request",
        memory_request::<PROJECTED>
    ),
    case!(
        "Projected downwardAPI should provide node allocatable (cpu) as default cpu limit if the \
         limit is not set",
        default_cpu::<PROJECTED>
    ),
    case!(
        "Projected downwardAPI should provide node allocatable (memory) as default memory limit if \
         the limit is not set",
        default_memory::<PROJECTED>
    ),
    case!("Projected downwardAPI should update labels on modification", labels::<PROJECTED>)
        .within(300),
    case!(
        "Projected downwardAPI should update annotations on modification",
        annotations::<PROJECTED>
    )
    .within(300),
];

/// A volume with one file, `/etc/podinfo/file`.
fn volume(projected: bool, file: Value) -> Value {
    let mut file = file;
    file["path"] = "file".into();
    let source = json!({"items": [file]});
    match projected {
        false => json!({"name": "podinfo", "downwardAPI": source}),
        true => json!({"name": "podinfo", "projected": {"sources": [{"downwardAPI": source}]}}),
    }
}

/// What the file is in a pod whose container has these resources.
async fn content(
    context: &Context,
    projected: bool,
    file: Value,
    resources: Value,
) -> Result<String> {
    let args = ["cat=/etc/podinfo/file".to_string()];
    let mut pod = pod("downwardapi-volume", &[volume(projected, file)], &args);
    pod["spec"]["containers"][0]["resources"] = resources;
    let told = output(context, &pod).await?;
    let after = told.split("=cat=/etc/podinfo/file\n").nth(1).context("the argument")?;
    // What follows in the same line is the environment.
    let line = after.lines().next().unwrap_or_default();
    Ok(line.split("env ").next().unwrap_or_default().to_string())
}

async fn podname<const PROJECTED: bool>(context: &Context) -> Result<()> {
    let file = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    is_text(&content(context, PROJECTED, file, json!({})).await?, "downwardapi-volume")
}

fn is_text(found: &str, wanted: &str) -> Result<()> {
    ensure!(found == wanted, "{found:?} is not {wanted:?}");
    Ok(())
}

async fn resource(context: &Context, projected: bool, name: &str, limited: bool) -> Result<String> {
    let file = json!({"resourceFieldRef": {"containerName": "test", "resource": name}});
    let resources = json!({"requests": {"cpu": "250m", "memory": "32Mi"},
        "limits": {"cpu": "1250m", "memory": "64Mi"}});
    content(context, projected, file, if limited { resources } else { json!({}) }).await
}

async fn cpu_limit<const PROJECTED: bool>(context: &Context) -> Result<()> {
    is_text(&resource(context, PROJECTED, "limits.cpu", true).await?, "2")
}

async fn cpu_request<const PROJECTED: bool>(context: &Context) -> Result<()> {
    is_text(&resource(context, PROJECTED, "requests.cpu", true).await?, "1")
}

async fn memory_limit<const PROJECTED: bool>(context: &Context) -> Result<()> {
    is_text(&resource(context, PROJECTED, "limits.memory", true).await?, "67108864")
}

async fn memory_request<const PROJECTED: bool>(context: &Context) -> Result<()> {
    is_text(&resource(context, PROJECTED, "requests.memory", true).await?, "33554432")
}

/// Some number that is not nothing, as upstream asks.
async fn default_of(context: &Context, projected: bool, name: &str) -> Result<()> {
    let found = resource(context, projected, name, false).await?;
    let number: u64 = found.parse().with_context(|| found.clone())?;
    ensure!(number > 0, "{found}");
    Ok(())
}

async fn default_cpu<const PROJECTED: bool>(context: &Context) -> Result<()> {
    default_of(context, PROJECTED, "limits.cpu").await
}

async fn default_memory<const PROJECTED: bool>(context: &Context) -> Result<()> {
    default_of(context, PROJECTED, "limits.memory").await
}

/// A field of the metadata is in the file, before and after it changed.
async fn follows(
    context: &Context,
    projected: bool,
    field: &str,
    (before, after): (Value, Value),
    (first, then): (&str, &str),
) -> Result<()> {
    let pods = context.own("v1/pods");
    let file = json!({"fieldRef": {"fieldPath": format!("metadata.{field}")}});
    let mut pod = sleeping("podinfo-update", &[volume(projected, file)]);
    pod["metadata"][field] = before;
    run(&pods, &pod).await?;
    reads(context, "podinfo-update", "/etc/podinfo/file", has(first)).await?;
    let patch = json!({"metadata": {field: after}});
    pods.patch("podinfo-update", Patch::Merge, &patch).await?;
    reads(context, "podinfo-update", "/etc/podinfo/file", has(then)).await
}

async fn labels<const PROJECTED: bool>(context: &Context) -> Result<()> {
    let values = (json!({"key1": "value1", "key2": "value2"}), json!({"key3": "value3"}));
    let texts = ("key1=\"value1\"\n", "key3=\"value3\"");
    follows(context, PROJECTED, "labels", values, texts).await
}

async fn annotations<const PROJECTED: bool>(context: &Context) -> Result<()> {
    let values = (json!({"builder": "bar"}), json!({"builder": "foo"}));
    follows(context, PROJECTED, "annotations", values, ("builder=\"bar\"", "builder=\"foo\"")).await
}
