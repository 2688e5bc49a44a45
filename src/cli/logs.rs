//! `wasmctl logs`: of a pod, or of all pods of a workload or a selector.

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::BodyExt;
use serde_json::Value;

use super::args::LogsArgs;
use super::discovery::text;
use super::printer;
use super::selection::{self, Selected};
use super::session::Session;
use crate::client::remote::Query;

/// Pods whose logs are followed at once.
const MAX_PODS: usize = 50;
/// A line without an end is printed in pieces of this size.
const MAX_LINE_BYTES: usize = 64 << 10;

pub async fn run(session: &Session, args: &LogsArgs) -> anyhow::Result<()> {
    let pods = pods(session, args).await?;
    if pods.len() > MAX_PODS {
        bail!("{} pods match; at most {MAX_PODS} can be read at once", pods.len());
    }
    let prefix = args.prefix || pods.len() > 1;
    let mut streams: FuturesUnordered<_> =
        pods.iter().map(|pod| print(session, args, pod, prefix)).collect();
    let mut failed = Vec::new();
    while let Some(result) = streams.next().await {
        if let Err(error) = result {
            failed.push(error);
        }
    }
    super::create::report(failed)
}

/// The pods that are meant.
async fn pods(session: &Session, args: &LogsArgs) -> anyhow::Result<Vec<Value>> {
    let Some(what) = &args.what else {
        return by_labels(session, args.selector.as_deref().unwrap_or_default()).await;
    };
    if !what.contains('/') {
        return Ok(vec![pod(session, what).await?]);
    }
    let selected = selection::named(session, std::slice::from_ref(what)).await?;
    let one: &Selected = selected.first().context("nothing selected")?;
    if one.resource.kind == "Pod" {
        return Ok(vec![pod(session, one.name.as_deref().unwrap_or_default()).await?]);
    }
    let workload = session.get_json(&one.path(Some(&session.namespace))).await?;
    let selector = workload.pointer("/spec/selector").context("this kind has no pods")?;
    let labels = selector_text(selector);
    let pods = by_labels(session, &labels).await?;
    if pods.is_empty() {
        bail!("{} has no pods", one.title());
    }
    Ok(pods)
}

/// A label selector object (or a Service's plain map) as text.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in
        selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten()
    {
        let key = text(expression, "/key");
        let values = expression.get("values").and_then(Value::as_array);
        let values: Vec<&str> = values.into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_string(),
        });
    }
    parts.join(",")
}

async fn pod(session: &Session, name: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{}/pods/{name}", session.namespace);
    Ok(session.get_json(&path).await?)
}

async fn by_labels(session: &Session, labels: &str) -> anyhow::Result<Vec<Value>> {
    let mut query = Query::default();
    query.add("labelSelector", labels);
    let path = query.on(&format!("/api/v1/namespaces/{}/pods", session.namespace));
    let mut list = session.get_json(&path).await?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

async fn print(
    session: &Session,
    args: &LogsArgs,
    pod: &Value,
    prefix: bool,
) -> anyhow::Result<()> {
    let name = text(pod, "/metadata/name");
    let mut query = Query::default();
    let container = match &args.container {
        Some(container) => container,
        None => text(pod, "/spec/containers/0/name"),
    };
    query.add("container", container);
    for (option, on) in
        [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)]
    {
        query.add(option, if on { "true" } else { "" });
    }
    query.add("tailLines", &args.tail.map(|n| n.to_string()).unwrap_or_default());
    query.add("sinceSeconds", &args.since.map(|n| n.to_string()).unwrap_or_default());
    let path = format!("/api/v1/namespaces/{}/pods/{name}/log", session.namespace);
    let mut body = session.remote.stream(&query.on(&path)).await?;
    let head = if prefix { format!("[pod/{name}/{container}] ") } else { String::new() };
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the log was cut off")?.into_data() else { continue };
        if !prefix {
            printer::raw(&data)?;
            continue;
        }
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            printer::raw(&[head.as_bytes(), &line].concat())?;
        }
        if pending.len() > MAX_LINE_BYTES {
            printer::raw(&[head.as_bytes(), &pending, b"\n"].concat())?;
            pending.clear();
        }
    }
    if !pending.is_empty() {
        printer::raw(&[head.as_bytes(), &pending, b"\n"].concat())?;
    }
    Ok(())
}
