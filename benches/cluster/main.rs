//! The benchmark driver: starts the built program, drives it as clients do, and prints one JSON
//! object. `cargo bench --bench cluster`; `-- NAME…` runs some of the figures. `density` and `node_loss`
//! run only where they are named, and a number after them says how many pods: `-- density 10000`.
//!
//! A shared machine gives no stable absolute figures: compare ratios within one run, and read the
//! store's figures beside the disk's own fdatasync rate.

mod cluster;
mod density;
mod http;
#[path = "../common/launch.rs"]
mod launch;
mod node_loss;
mod pods;
#[path = "../common/program.rs"]
mod program;
mod serve;
#[path = "../common/stats.rs"]
mod stats;
mod store;

use serde_json::{Map, Value};

/// A figure's name and how it is measured on a running cluster.
const FIGURES: &[&str] =
    &["start", "idle", "pods", "deployment", "http", "writes", "density", "node_loss"];
/// Pods of the figure `density` where no number says so.
const DENSITY_PODS: usize = 10_000;
/// Pods of the node that is lost.
const LOST_PODS: usize = 1000;
/// Figures with clusters of their own.
const APART: &[&str] = &["density", "node_loss"];

fn main() -> anyhow::Result<()> {
    let mut wanted: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let number = wanted.last().and_then(|last| last.parse().ok());
    wanted.truncate(wanted.len() - usize::from(number.is_some()));
    for name in &wanted {
        anyhow::ensure!(
            FIGURES.contains(&name.as_str()),
            "no figure {name}; there are {FIGURES:?}"
        );
    }
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Map::new();
    if wanted.is_empty() || wanted.iter().any(|name| !APART.contains(&name.as_str())) {
        report = runtime.block_on(measure(&wants))?;
    }
    if wanted.iter().any(|name| name == "density") {
        let pods = number.unwrap_or(DENSITY_PODS);
        report.insert("density".into(), runtime.block_on(density::measure(pods))?);
    }
    if wanted.iter().any(|name| name == "node_loss") {
        let pods = number.unwrap_or(LOST_PODS);
        report.insert("node_loss".into(), runtime.block_on(node_loss::measure(pods))?);
    }
    println!("{}", serde_json::to_string_pretty(&Value::Object(report))?);
    Ok(())
}

async fn measure(wants: &dyn Fn(&str) -> bool) -> anyhow::Result<Map<String, Value>> {
    let mut report = Map::new();
    report.insert("fdatasync_per_second".into(), stats::fdatasync_rate()?.into());
    if wants("start") {
        report.insert("start".into(), cluster::start_times().await?);
    }
    let cluster = cluster::Cluster::start().await?;
    if wants("idle") {
        report.insert("idle".into(), cluster.idle().await?);
    }
    cluster.push_guests().await?;
    if wants("pods") {
        report.insert("pods_one_by_one".into(), pods::one_by_one(&cluster, 200).await?);
        report.insert("pods_of_unknown_programs".into(), pods::cold(&cluster, 20).await?);
        report.insert("pods_at_100_per_second".into(), pods::at_rate(&cluster, 200, 100).await?);
    }
    if wants("deployment") {
        report.insert("deployment_of_1000".into(), pods::deployment(&cluster, 1000).await?);
    }
    if wants("http") {
        report.insert("http".into(), http::through_service_and_direct(&cluster).await?);
    }
    if wants("writes") {
        report.insert("durable_writes".into(), store::writes(&cluster).await?);
    }
    cluster.stop().await?;
    Ok(report)
}
