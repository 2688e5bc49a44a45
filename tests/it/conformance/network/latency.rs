//! `network/service_latency.go`. Upstream makes 200 Services; each of ours has a listener in every
//! node's proxy, and machines have limits, so there are fewer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::conformance::checks::{label, name};
use crate::conformance::workloads::{PAUSE, are_running, replication_controller};
use crate::conformance::{Case, Collection, Context, case};

pub const CASES: &[Case] =
    &[case!("Service endpoints latency should not be very high", latencies).within(300)];

const SERVICES: usize = 60;
const SIDE_BY_SIDE: usize = 15;
/// Upstream's bounds.
const MEDIAN: Duration = Duration::from_secs(20);
const TAIL: Duration = Duration::from_secs(50);

async fn created(services: &Collection, at: usize) -> Result<(String, Instant)> {
    let service = json!({"metadata": {"name": format!("latency-svc-{at}")},
        "spec": {"selector": {"name": "svc-latency-rc"},
            "ports": [{"port": 8080, "targetPort": 80}]}});
    let began = Instant::now();
    let made = services.create(&service).await?;
    Ok((name(&made).to_string(), began))
}

async fn latencies(context: &Context) -> Result<()> {
    let labels = json!({"name": "svc-latency-rc"});
    let owner = replication_controller("svc-latency-rc", 1, &labels, "main", PAUSE);
    context.own("v1/replicationcontrollers").create(&owner).await?;
    are_running(&context.own("v1/pods"), "name=svc-latency-rc", 1).await?;
    let slices = context.own("discovery.k8s.io/v1/endpointslices");
    let mut watch = slices.watch_labelled("").await?;
    let services = context.own("v1/services");
    let creating = futures::stream::iter(0..SERVICES)
        .map(|at| created(&services, at))
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<HashMap<String, Instant>>();
    let watching = async {
        let mut seen: HashMap<String, Instant> = HashMap::new();
        while seen.len() < SERVICES {
            let Some(event) = watch.next().await? else { break };
            let slice: &Value = &event.object;
            let is_filled = slice["endpoints"].as_array().is_some_and(|all| !all.is_empty());
            if let Some(service) = label(slice, "kubernetes.io/service-name").as_str()
                && is_filled
            {
                seen.entry(service.to_string()).or_insert_with(Instant::now);
            }
        }
        anyhow::Ok(seen)
    };
    let (began, seen) = futures::future::try_join(creating, watching).await?;
    ensure!(seen.len() == SERVICES, "{} of {SERVICES} Services have endpoints", seen.len());
    let mut took: Vec<Duration> = began
        .iter()
        .filter_map(|(service, began)| Some(seen.get(service)?.duration_since(*began)))
        .collect();
    took.sort();
    ensure!(took.len() == SERVICES, "{} of {SERVICES} are in both lists", took.len());
    let (median, tail) = (took[SERVICES / 2], took[SERVICES * 99 / 100]);
    ensure!(median <= MEDIAN && tail <= TAIL, "50 % within {median:?}, 99 % within {tail:?}");
    Ok(())
}
