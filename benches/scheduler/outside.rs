//! End to end: pods are created, scheduled, bound, and told as running by simulated nodes; each step
//! is durable, and seen by a watch.

use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use wasmfleet::client::{Api, DeleteOptions, Target, WriteOptions};

use crate::pods::{self, Seen};
use crate::report::{Report, number};
use crate::rig::Rig;
use crate::templates::Template;
use crate::workloads::{Beside, Workload};

/// Between two pods that fit nowhere, or two comings of a node: upstream's.
const MISFIT_PERIOD: Duration = Duration::from_millis(200);
const CHURN_PERIOD: Duration = Duration::from_secs(1);

pub async fn measure(report: &mut Report, workload: &Workload) -> anyhow::Result<()> {
    let mut rig = Rig::start().await?;
    rig.add_nodes(workload.nodes).await?;
    let mut before = 0;
    for name in namespaces(workload) {
        rig.make_namespace(&name).await?;
    }
    let seen = Seen::watch(&rig.remote, "init").await?;
    if let Beside::Gated(count) = workload.beside {
        let gated =
            crate::workloads::Pods { count, template: Template::Gated, namespaces: ("sched-1", 1) };
        pods::create(&rig, &gated, "gated", None).await?;
    }
    for (n, some) in workload.init.iter().enumerate() {
        pods::create(&rig, some, prefix(n), None).await?;
        before += some.count;
        seen.wait_running(before).await?;
    }
    let seen = Seen::watch(&rig.remote, "measured").await?;
    let disturbed =
        tokio::spawn(disturb(rig.connect().await?, rig.remote.clone(), workload.beside));
    let (used, begin) = (rig.used()?, Instant::now());
    pods::create(&rig, &workload.measured, "measured", None).await?;
    let created = begin.elapsed().as_secs_f64();
    seen.wait_running(workload.measured.count).await?;
    let after = rig.used()?;
    disturbed.abort();
    let times = seen.times();
    let last = |of: fn(&pods::Times) -> Option<Instant>| {
        let last = times.iter().filter_map(of).max().context("nothing was seen")?;
        anyhow::Ok((last - begin).as_secs_f64())
    };
    let count = workload.measured.count as f64;
    let (bound, running) = (last(|one| one.bound)?, last(|one| one.running)?);
    let name = workload.name;
    let gate = workload.gate.map(f64::from);
    let aim = format!("≥ {}", workload.aim_outside);
    report.compare(&format!("{name}: pods/s bound, end to end"), count / bound, gate, &aim);
    let plain = |report: &mut Report, what: &str, value: f64| {
        report.row(&format!("{name}: {what}"), number(value), None, "-".into(), "");
    };
    plain(report, "pods/s running, end to end", count / running);
    plain(report, "pods/s created", count / created);
    plain(report, "CPU µs a pod, server", (after.server - used.server) as f64 / count);
    plain(report, "CPU µs a pod, simulator", (after.simulators - used.simulators) as f64 / count);
    let (server, simulators) = rig.resident()?;
    plain(report, "MB resident, server", server as f64 / 1e6);
    plain(report, "MB resident, simulator", simulators as f64 / 1e6);
    Ok(())
}

fn namespaces(workload: &Workload) -> Vec<String> {
    let mut names = vec!["sched-0".to_string(), "sched-1".to_string()];
    for pods in &workload.init {
        let (space, spaces) = pods.namespaces;
        match spaces {
            1 => names.push(space.to_string()),
            spaces => names.extend((0..spaces).map(|n| format!("{space}-{n}"))),
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Names of the pods before, one for each kind.
fn prefix(n: usize) -> &'static str {
    ["init-a", "init-b", "init-c", "init-d", "init-e", "init-f"][n.min(5)]
}

/// What happens beside the measured pods, until it is stopped.
async fn disturb(
    mut connection: crate::connection::Connection,
    remote: wasmfleet::client::remote::Remote,
    beside: Beside,
) -> anyhow::Result<()> {
    match beside {
        Beside::Nothing | Beside::Gated(_) => Ok(()),
        Beside::Unschedulable(_) => {
            let mut n = 0;
            loop {
                let name = format!("large-{n}");
                pods::post(&mut connection, Template::Large, "sched-0", &name).await?;
                n += 1;
                tokio::time::sleep(MISFIT_PERIOD).await;
            }
        }
        Beside::Churn(_) => loop {
            let node: Node = serde_json::from_value(json!({"metadata": {"name": "churn"}}))?;
            let target = Target::all::<Node>(None);
            let object = wasmfleet::api::Object::from_typed(&node);
            remote.create(&target, object, &WriteOptions::default()).await?;
            pods::post(&mut connection, Template::Large, "sched-0", "churn").await?;
            tokio::time::sleep(CHURN_PERIOD).await;
            let options = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
            remote.delete(&Target::one::<Node>("", "churn"), &options).await?;
            let pod = Target::one::<k8s_openapi::api::core::v1::Pod>("sched-0", "churn");
            remote.delete(&pod, &options).await?;
        },
    }
}
