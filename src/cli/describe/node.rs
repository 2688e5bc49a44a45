//! Nodes, with the pods on them and what those ask for.

use serde_json::Value;

use super::super::discovery::text;
use super::super::session::Session;
use super::page::{Page, items};
use crate::api::Gvr;
use crate::api::quantity::Quantity;
use crate::client::remote::Query;

pub async fn describe(session: &Session, page: &mut Page, node: &Value) -> anyhow::Result<()> {
    page.created(node);
    let taints = items(node, "/spec/taints").map(|taint| {
        let value = match text(taint, "/value") {
            "" => String::new(),
            value => format!("={value}"),
        };
        format!("{}{value}:{}", text(taint, "/key"), text(taint, "/effect"))
    });
    page.values(0, "Taints", taints.collect());
    let cordoned = node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
    page.field(0, "Unschedulable", cordoned.to_string());
    let columns = [
        ("Type", "/type"),
        ("Status", "/status"),
        ("LastHeartbeatTime", "/lastHeartbeatTime"),
        ("LastTransitionTime", "/lastTransitionTime"),
        ("Reason", "/reason"),
        ("Message", "/message"),
    ];
    page.conditions(node, &columns);
    page.heading(0, "Addresses");
    for address in items(node, "/status/addresses") {
        page.field(1, text(address, "/type"), text(address, "/address"));
    }
    page.fields(0, "Capacity", node.pointer("/status/capacity"));
    page.fields(0, "Allocatable", node.pointer("/status/allocatable"));
    page.heading(0, "System Info");
    for (label, field) in [
        ("Machine ID", "machineID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        page.field(1, label, text(node, &format!("/status/nodeInfo/{field}")));
    }
    page.some(0, "PodCIDR", text(node, "/spec/podCIDR"));
    pods(session, page, node).await
}

async fn pods(session: &Session, page: &mut Page, node: &Value) -> anyhow::Result<()> {
    let mut query = Query::default();
    let name = text(node, "/metadata/name");
    let fields = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
    query.add("fieldSelector", &fields);
    let path = Gvr::new("", "v1", "pods", true).path(None, None, None);
    let list = session.get_json(&query.on(&path)).await?;
    let allocatable =
        |resource: &str| milli(text(node, &format!("/status/allocatable/{resource}")));
    let mut total = [0; 4];
    let mut rows = Vec::new();
    for pod in items(&list, "/items") {
        let mut row =
            vec![text(pod, "/metadata/namespace").into(), text(pod, "/metadata/name").into()];
        for (n, (resource, bound)) in COLUMNS.iter().enumerate() {
            let asked = sum(pod, bound, resource);
            total[n] += asked;
            row.push(share(resource, asked, allocatable(resource)));
        }
        rows.push(row);
    }
    let header =
        ["Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits"];
    page.table(&format!("Non-terminated Pods ({} in total)", rows.len()), &header, rows);
    let cell = |n: usize| {
        let resource = COLUMNS[n].0;
        share(resource, total[n], allocatable(resource))
    };
    let rows = [("cpu", 0, 1), ("memory", 2, 3)]
        .map(|(resource, requests, limits)| vec![resource.into(), cell(requests), cell(limits)]);
    page.table("Allocated resources", &["Resource", "Requests", "Limits"], rows.to_vec());
    Ok(())
}

const COLUMNS: [(&str, &str); 4] =
    [("cpu", "requests"), ("cpu", "limits"), ("memory", "requests"), ("memory", "limits")];

/// What the containers of a pod ask of a resource, in thousandths.
fn sum(pod: &Value, bound: &str, resource: &str) -> i64 {
    let asked =
        |container: &Value| milli(text(container, &format!("/resources/{bound}/{resource}")));
    let sidecars = items(pod, "/spec/initContainers")
        .filter(|container| text(container, "/restartPolicy") == "Always");
    items(pod, "/spec/containers").chain(sidecars).map(asked).fold(0, i64::saturating_add)
}

fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |quantity| quantity.milli())
}

/// `10m (0%)`, `64Mi (3%)`.
fn share(resource: &str, asked: i64, of: i64) -> String {
    let percent = if of > 0 { i128::from(asked) * 100 / i128::from(of) } else { 0 };
    let quantity = match resource {
        "memory" => Quantity::from_bytes(asked / 1000),
        _ => Quantity::from_milli(asked),
    };
    format!("{quantity} ({percent}%)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_pods_ask_for_is_summed() {
        let pod = json!({"spec": {
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "5m"}}},
                {"resources": {"requests": {"cpu": "500m"}}}],
            "containers": [{"resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]}});
        assert_eq!(share("cpu", sum(&pod, "requests", "cpu"), milli("2")), "15m (0%)");
        let memory = sum(&pod, "requests", "memory");
        assert_eq!(share("memory", memory, milli("16Mi")), "8Mi (50%)");
        assert_eq!(share("cpu", sum(&pod, "limits", "cpu"), milli("2")), "0 (0%)");
    }
}
