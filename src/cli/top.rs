//! `wasmctl top`: what nodes and pods use, from metrics.k8s.io.

use anyhow::Context;
use serde_json::Value;

use super::args::{TopArgs, TopCommon, TopWhat};
use super::discovery::text;
use super::printer;
use super::selection::check_name;
use super::session::Session;
use crate::api::quantity::Quantity;
use crate::client::remote::Query;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const MIB: i64 = 1 << 20;

/// Thousandths of a core, and bytes.
#[derive(Clone, Copy, Default)]
struct Used {
    cpu_milli: i64,
    memory_bytes: i64,
}

/// One line: its first cells, what is used, and of how much.
struct Line {
    names: Vec<String>,
    used: Used,
    of: Option<Used>,
}

pub async fn run(session: &Session, args: &TopArgs) -> anyhow::Result<()> {
    match &args.what {
        TopWhat::Nodes { name, common } => {
            let lines = nodes(session, name.as_deref(), common).await?;
            let head = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
            print(&head, lines, common)
        }
        TopWhat::Pods { name, containers, all_namespaces, common } => {
            let namespace = (!all_namespaces).then_some(session.namespace.as_str());
            let objects = objects(session, "pods", namespace, name.as_deref(), common).await?;
            if objects.is_empty() {
                printer::nothing_found(namespace);
                return Ok(());
            }
            let mut head = vec!["NAME", "CPU(cores)", "MEMORY(bytes)"];
            if *containers {
                head[0] = "POD";
                head.insert(1, "NAME");
            }
            if *all_namespaces {
                head.insert(0, "NAMESPACE");
            }
            let mut lines: Vec<Line> =
                objects.iter().flat_map(|pod| pod_lines(pod, *containers)).collect();
            if !all_namespaces {
                lines.iter_mut().for_each(|line| _ = line.names.remove(0));
            }
            print(&head, lines, common)
        }
    }
}

async fn objects(
    session: &Session,
    resource: &str,
    namespace: Option<&str>,
    name: Option<&str>,
    common: &TopCommon,
) -> anyhow::Result<Vec<Value>> {
    let place = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let path = format!("{METRICS}{place}/{resource}");
    if let Some(name) = name {
        check_name(name)?;
        return Ok(vec![session.get_json(&format!("{path}/{name}")).await?]);
    }
    let mut query = Query::default();
    query.add("labelSelector", common.selector.as_deref().unwrap_or_default());
    let mut list = session.get_json(&query.on(&path)).await?;
    let items = list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
    Ok(items.unwrap_or_default())
}

async fn nodes(
    session: &Session,
    name: Option<&str>,
    common: &TopCommon,
) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for node in objects(session, "nodes", None, name, common).await? {
        let name = text(&node, "/metadata/name").to_string();
        let object = session.get_json(&format!("/api/v1/nodes/{name}")).await?;
        let of = object.pointer("/status/allocatable").map(used).transpose()?;
        lines.push(Line { names: vec![name], used: used(&node["usage"])?, of });
    }
    Ok(lines)
}

/// The pod's, or those of its containers; a namespace and the pod's name stand first.
fn pod_lines(pod: &Value, each: bool) -> Vec<Line> {
    let names = [text(pod, "/metadata/namespace"), text(pod, "/metadata/name")].map(str::to_string);
    let mut total = Used::default();
    let mut lines = Vec::new();
    for container in pod["containers"].as_array().into_iter().flatten() {
        let used = used(&container["usage"]).unwrap_or_default();
        total.cpu_milli += used.cpu_milli;
        total.memory_bytes += used.memory_bytes;
        let mut names = names.to_vec();
        names.push(text(container, "/name").to_string());
        lines.push(Line { names, used, of: None });
    }
    match each {
        true => lines,
        false => vec![Line { names: names.to_vec(), used: total, of: None }],
    }
}

fn used(amounts: &Value) -> anyhow::Result<Used> {
    let amount = |name: &str| {
        let text = amounts.get(name).and_then(Value::as_str).unwrap_or("0");
        Quantity::parse(text).with_context(|| format!("{name}: {text:?}"))
    };
    Ok(Used { cpu_milli: amount("cpu")?.milli(), memory_bytes: amount("memory")?.value() })
}

fn print(head: &[&str], mut lines: Vec<Line>, common: &TopCommon) -> anyhow::Result<()> {
    match common.sort_by.as_deref() {
        Some("cpu") => lines.sort_by_key(|line| std::cmp::Reverse(line.used.cpu_milli)),
        Some("memory") => lines.sort_by_key(|line| std::cmp::Reverse(line.used.memory_bytes)),
        _ => lines.sort_by(|a, b| a.names.cmp(&b.names)),
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !common.no_headers {
        rows.push(head.iter().map(|cell| cell.to_string()).collect());
    }
    rows.extend(lines.into_iter().map(cells));
    Ok(printer::columns(&rows)?)
}

fn cells(line: Line) -> Vec<String> {
    let percent = |used: i64, of: i64| match of {
        0 => "<unknown>".to_string(),
        of => format!("{}%", used.saturating_mul(100) / of),
    };
    let Line { mut names, used, of } = line;
    names.push(format!("{}m", used.cpu_milli));
    names.extend(of.map(|of| percent(used.cpu_milli, of.cpu_milli)));
    names.push(format!("{}Mi", used.memory_bytes / MIB));
    names.extend(of.map(|of| percent(used.memory_bytes, of.memory_bytes)));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_the_sums_of_their_containers() {
        let pod = json!({"metadata": {"namespace": "n", "name": "p"}, "containers": [
            {"name": "a", "usage": {"cpu": "1500000n", "memory": "1024Ki"}},
            {"name": "b", "usage": {"cpu": "3m", "memory": "5Mi"}}]});
        let rows = |each| pod_lines(&pod, each).into_iter().map(cells).collect::<Vec<_>>();
        assert_eq!(rows(false), [["n", "p", "5m", "6Mi"]]);
        assert_eq!(rows(true), [["n", "p", "a", "2m", "1Mi"], ["n", "p", "b", "3m", "5Mi"]]);
        let of = Some(Used { cpu_milli: 1000, memory_bytes: 0 });
        let line = Line { names: vec![], used: Used { cpu_milli: 250, memory_bytes: MIB }, of };
        assert_eq!(cells(line), ["250m", "25%", "1Mi", "<unknown>"]);
    }
}
