//! `wasmctl why`: what the scheduler thinks of a pod, node by node, and what would help.

use anyhow::Context;
use serde_json::Value;

use super::args::{LogsArgs, WhyArgs};
use super::discovery::text;
use super::logs;
use super::printer::{self, Format};
use super::session::Session;
use crate::api::why::{Explanation, Score, Verdict};
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &WhyArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let pods = logs::pods(session, &LogsArgs::of_pod(&args.what)).await?;
    // Of a workload one that waits, if there is one.
    let waits = |pod: &&Value| text(pod, "/spec/nodeName").is_empty();
    let pod = pods.iter().find(waits).or(pods.first()).context("there is no such pod")?;
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let mut query = Query::default();
    query.add("limit", &args.nodes.max(1).to_string());
    let path = query.on(&format!("/api/v1/namespaces/{namespace}/pods/{name}/why"));
    let answer = session.get_json(&path).await?;
    if !matches!(format, Format::Table { .. }) {
        return printer::object(&answer, &format, &format!("pod/{name}"));
    }
    let explanation: Explanation =
        serde_json::from_value(answer).context("the server's answer cannot be read")?;
    for line in page(&explanation) {
        printer::line(&line)?;
    }
    Ok(())
}

fn page(told: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("pod {}/{} {}", told.namespace, told.name, told.state)];
    lines.push(match told.message.as_str() {
        "" => format!("{} of {} nodes take it", told.nodes_feasible, told.nodes_total),
        message => message.to_string(),
    });
    let some = |verdict: &&Verdict| verdict.filter.is_none();
    let (fit, refused): (Vec<&Verdict>, Vec<&Verdict>) = told.nodes.iter().partition(some);
    if !fit.is_empty() {
        lines.push(String::new());
        lines.extend(table(
            &["NODE", "SCORE", "OF WHICH"],
            fit.iter().map(|verdict| {
                let scores: Vec<String> = verdict.scores.iter().map(score).collect();
                vec![verdict.node.clone(), verdict.total.to_string(), scores.join(", ")]
            }),
        ));
    }
    if !refused.is_empty() {
        lines.push(String::new());
        lines.extend(table(
            &["NODE", "REFUSED BY", "BECAUSE"],
            refused.iter().map(|verdict| {
                let filter = verdict.filter.clone().unwrap_or_default();
                vec![verdict.node.clone(), filter, verdict.reasons.join(", ")]
            }),
        ));
    }
    let left_off = told.nodes_total.saturating_sub(told.nodes.len());
    if left_off > 0 && !told.nodes.is_empty() {
        lines.push(format!("… and {left_off} more (--nodes {})", told.nodes_total));
        lines.push(String::new());
        lines.extend(table(
            &["NODES", "REFUSED BY", "BECAUSE"],
            told.refusals
                .iter()
                .map(|one| vec![one.nodes.to_string(), one.filter.clone(), one.reason.clone()]),
        ));
    }
    if !told.help.is_empty() {
        lines.extend([String::new(), "What would help:".into()]);
        lines.extend(told.help.iter().map(|help| format!("  {help}")));
    }
    lines
}

/// `TaintToleration 10000×3`: what it gives, and its weight where that is not 1.
fn score(score: &Score) -> String {
    match score.weight {
        1 => format!("{} {}", score.plugin, score.score),
        weight => format!("{} {}×{weight}", score.plugin, score.score),
    }
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let head = head.iter().map(|cell| cell.to_string()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    printer::aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_tells_each_node_and_what_would_help() {
        let told = json!({
            "apiVersion": "wasmfleet.dev/v1", "kind": "SchedulingExplanation",
            "namespace": "n", "name": "p", "state": "waits for a node",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
            "nodesTotal": 3, "nodesFeasible": 0,
            "refusals": [{"filter": "NodeResourcesFit", "reason": "Insufficient cpu", "nodes": 3}],
            "nodes": [{"node": "a", "filter": "NodeResourcesFit", "reasons": ["Insufficient cpu"]}],
            "help": ["add nodes"],
        });
        let told: Explanation = serde_json::from_value(told).unwrap();
        let wanted = "\
pod n/p waits for a node
0/3 nodes are available: 3 Insufficient cpu.

NODE   REFUSED BY         BECAUSE
a      NodeResourcesFit   Insufficient cpu
… and 2 more (--nodes 3)

NODES   REFUSED BY         BECAUSE
3       NodeResourcesFit   Insufficient cpu

What would help:
  add nodes";
        assert_eq!(page(&told).join("\n"), wanted);
        let verdict = Verdict {
            node: "a".into(),
            total: 30_500,
            scores: vec![
                Score { plugin: "TaintToleration".into(), score: 10_000, weight: 3 },
                Score { plugin: "LeastAllocated".into(), score: 500, weight: 1 },
            ],
            ..Verdict::default()
        };
        let fits = Explanation {
            message: String::new(),
            nodes_feasible: 1,
            nodes_total: 1,
            refusals: vec![],
            nodes: vec![verdict],
            help: vec![],
            ..told
        };
        let wanted = "\
pod n/p waits for a node
1 of 1 nodes take it

NODE   SCORE   OF WHICH
a      30500   TaintToleration 10000×3, LeastAllocated 500";
        assert_eq!(page(&fits).join("\n"), wanted);
    }
}
