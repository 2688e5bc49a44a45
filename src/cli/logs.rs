//! `wasmctl logs`: of a pod, or of all pods of a workload or a selector.

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::BodyExt;
use serde_json::Value;

use super::args::LogsArgs;
use super::discovery::text;
use super::printer;
use super::report;
use super::selection::{self, Selected, check_name};
use super::session::Session;
use crate::client::remote::Query;

/// Logs that are read in one command.
const MAX_LOGS: usize = 100;
/// Names the container whose log is shown where none is named; as a JSON pointer.
const DEFAULT_CONTAINER: &str = "/kubectl.kubernetes.io~1default-container";
/// A line without an end is printed in pieces of this size.
const MAX_LINE_BYTES: usize = 64 << 10;

/// A container of a pod.
struct Source {
    pod: String,
    container: String,
}

impl LogsArgs {
    /// The whole log of a pod.
    pub fn of_pod(name: &str) -> LogsArgs {
        LogsArgs { what: Some(name.to_string()), ..LogsArgs::default() }
    }

    fn container(&self) -> Option<&String> {
        self.container.as_ref().or(self.in_container.as_ref())
    }
}

pub async fn run(session: &Session, args: &LogsArgs) -> anyhow::Result<()> {
    let pods = pods(session, args).await?;
    if pods.is_empty() {
        printer::nothing_found(Some(&session.namespace));
    }
    let sources: Vec<Source> = pods.iter().flat_map(|pod| sources(args, pod)).collect();
    if sources.len() > MAX_LOGS {
        bail!("{} containers match; at most {MAX_LOGS} can be read at once", sources.len());
    }
    let prefix = args.prefix || pods.len() > 1;
    let mut failed = Vec::new();
    if args.follow {
        let mut streams: FuturesUnordered<_> =
            sources.iter().map(|source| print(session, args, source, prefix)).collect();
        while let Some(result) = streams.next().await {
            failed.extend(result.err());
        }
    } else {
        // One after the other, so that lines of one source stand together.
        for source in &sources {
            failed.extend(print(session, args, source, prefix).await.err());
        }
    }
    report::errors(failed)
}

/// The containers of a pod that are meant.
fn sources(args: &LogsArgs, pod: &Value) -> Vec<Source> {
    let names = |field: &str| -> Vec<String> {
        let containers = pod.pointer(field).and_then(Value::as_array).into_iter().flatten();
        containers.map(|container| text(container, "/name").to_string()).collect()
    };
    let pod_name = text(pod, "/metadata/name").to_string();
    let (mut initial, containers) = (names("/spec/initContainers"), names("/spec/containers"));
    let chosen = match args.container() {
        Some(container) => vec![container.clone()],
        None if args.all_containers => {
            initial.extend(containers);
            initial.extend(names("/spec/ephemeralContainers"));
            initial
        }
        None => {
            let annotated = pod
                .pointer("/metadata/annotations")
                .map_or("", |annotations| text(annotations, DEFAULT_CONTAINER));
            let default = containers.iter().find(|name| *name == annotated);
            let default = default.or(containers.first()).cloned().unwrap_or_default();
            let all: Vec<String> = containers.into_iter().chain(initial).collect();
            if all.len() > 1 && annotated.is_empty() {
                let all = all.join(", ");
                printer::note(&format!("Defaulted container {default:?} out of: {all}"));
            }
            vec![default]
        }
    };
    chosen.into_iter().map(|container| Source { pod: pod_name.clone(), container }).collect()
}

/// One pod that is meant, a running one if there is, and its container.
pub async fn first(session: &Session, args: &LogsArgs) -> anyhow::Result<(String, String)> {
    let pods = pods(session, args).await?;
    let runs = |pod: &&Value| text(pod, "/status/phase") == "Running";
    let pod = pods.iter().find(runs).or(pods.first()).context("there is no such pod")?;
    let source = sources(args, pod).into_iter().next().context("the pod has no containers")?;
    Ok((source.pod, source.container))
}

/// The pods that are meant.
pub async fn pods(session: &Session, args: &LogsArgs) -> anyhow::Result<Vec<Value>> {
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
pub fn selector_text(selector: &Value) -> String {
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
    check_name(name)?;
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
    source: &Source,
    prefix: bool,
) -> anyhow::Result<()> {
    let Source { pod, container } = source;
    let mut query = Query::default();
    query.add("container", container);
    for (option, on) in
        [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)]
    {
        query.add(option, if on { "true" } else { "" });
    }
    let tail = args.tail.filter(|lines| *lines >= 0);
    query.add("tailLines", &tail.map(|n| n.to_string()).unwrap_or_default());
    query.add("sinceSeconds", &args.since.map(|n| n.to_string()).unwrap_or_default());
    query.add("sinceTime", args.since_time.as_deref().unwrap_or_default());
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log", session.namespace);
    let mut body = session.remote.stream(&query.on(&path)).await?;
    let head = if prefix { format!("[pod/{pod}/{container}] ") } else { String::new() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_of_a_pod() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}});
        let names = |args: LogsArgs, pod: &Value| -> Vec<String> {
            sources(&args, pod).into_iter().map(|source| source.container).collect()
        };
        let mut marked = pod.clone();
        marked["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(names(LogsArgs::default(), &pod), ["a"]);
        assert_eq!(names(LogsArgs::default(), &marked), ["b"]);
        let all = LogsArgs { all_containers: true, ..LogsArgs::default() };
        assert_eq!(names(all, &pod), ["i", "a", "b"]);
        let one = LogsArgs { in_container: Some("i".into()), ..LogsArgs::default() };
        assert_eq!(names(one, &pod), ["i"]);
    }

    #[test]
    fn selectors_as_text() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["2", "3"]},
            {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "a=1,b in (2,3),!c");
        assert_eq!(selector_text(&json!({"app": "x"})), "app=x");
    }
}
