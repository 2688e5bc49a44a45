//! The cases of sig-architecture.

use anyhow::Result;
use serde_json::Value;

use super::checks::holds;
use super::{Case, Context, case, eventually};

pub const CASES: &[&[Case]] =
    &[&[case!("Conformance Tests should have at least two untainted nodes", two_nodes)]];

/// `architecture/conformance.go`: schedulable, with a network, and without taints that a pod would
/// have to tolerate.
async fn two_nodes(context: &Context) -> Result<()> {
    let nodes = context.all("v1/nodes");
    let condition = |node: &Value, kind: &str| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == kind).map(|c| c["status"].clone())
    };
    let is_schedulable = |node: &Value| {
        node["spec"]["unschedulable"] != true
            && condition(node, "Ready").is_some_and(|status| status == "True")
            && condition(node, "NetworkUnavailable").is_none_or(|status| status == "False")
    };
    let is_untainted = |node: &Value| {
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        !taints.iter().any(|t| t["effect"] == "NoSchedule" || t["effect"] == "NoExecute")
    };
    let ready = eventually("nodes that are ready", async || {
        let found = nodes.items(&[]).await?;
        // Nodes that other cases make are not schedulable, and of no concern.
        let found: Vec<Value> =
            found.into_iter().filter(|node| node["spec"]["unschedulable"] != true).collect();
        Ok(found.iter().all(is_schedulable).then_some(found))
    })
    .await?;
    let untainted = ready.iter().filter(|node| is_untainted(node)).count();
    holds(untainted >= 2, "two nodes take every pod")
}
