//! From the queue to the binding while pods come at a fixed rate, whatever the answers take: 1,000 a
//! second onto 5,000 nodes.

use std::time::Duration;

use crate::pods::{self, Seen};
use crate::report::{Report, number};
use crate::rig::Rig;
use crate::stats;
use crate::templates::Template;
use crate::workloads::{Nodes, Pods};

const RATE: usize = 1000;
const SECONDS: usize = 20;

pub async fn measure(report: &mut Report, smoke: bool) -> anyhow::Result<()> {
    let less = if smoke { 100 } else { 1 };
    let mut rig = Rig::start().await?;
    rig.add_nodes(Nodes { count: 5000 / less, zones: 3, named: false }).await?;
    rig.make_namespace("sched-1").await?;
    let seen = Seen::watch(&rig.remote, "measured").await?;
    let pods = Pods {
        count: RATE * SECONDS / less,
        template: Template::Default,
        namespaces: ("sched-1", 1),
    };
    let used = rig.used()?;
    let begin = std::time::Instant::now();
    pods::create(&rig, &pods, "measured", Some(RATE / less)).await?;
    seen.wait_running(pods.count).await?;
    let passed = begin.elapsed();
    let after = rig.used()?;
    let times = seen.times();
    let mut to_bound: Vec<Duration> =
        times.iter().filter_map(|one| Some(one.bound? - one.created)).collect();
    let mut to_running: Vec<Duration> =
        times.iter().filter_map(|one| Some(one.running? - one.created)).collect();
    to_bound.sort();
    to_running.sort();
    let offered = RATE / less;
    for (what, times, aim) in
        [("created to bound", &to_bound, "≤ 20 at p99"), ("created to running", &to_running, "")]
    {
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
            let what = format!("{name} ms {what}, {offered} pods/s offered");
            report.compare(&what, stats::percentile(times, share), None, aim);
        }
    }
    let share = |micros: u64| micros as f64 / passed.as_micros() as f64;
    let cores = number(share(after.server - used.server));
    report.row("cores of the server meanwhile", cores, None, "-".into(), "");
    let cores = number(share(after.simulators - used.simulators));
    report.row("cores of the simulator meanwhile", cores, None, "-".into(), "");
    Ok(())
}
