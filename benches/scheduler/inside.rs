//! Decisions inside: the pure cycle over a snapshot, on one thread. Pods are read before; what is
//! measured is filters, scores, the choice, and what is assumed of it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use wasmfleet::scheduler::class::Classes;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::framework::Framework;
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;

use crate::templates::{CAPACITY, NAMED_CAPACITY, NAMED_NODE, Template, node};
use crate::workloads::{Beside, Pods, Workload};

/// Pods decided in one cycle, as the scheduler's loop takes them.
const BATCH: usize = 4096;
/// Rounds without a decision after which what is left counts as undecided.
const MOST_ROUNDS: usize = 1000;

/// What came of it.
pub struct Found {
    pub decisions: usize,
    pub per_second: f64,
    pub micros: f64,
}

struct Engine {
    snapshot: Snapshot,
    framework: Framework,
    /// What earlier cycles found out, as the scheduler keeps it.
    classes: Classes,
    spent: Duration,
    decisions: usize,
}

/// `None` for what only a running scheduler does.
pub fn measure(workload: &Workload) -> anyhow::Result<Option<Found>> {
    let mut engine = Engine {
        snapshot: Snapshot::default(),
        framework: default_framework(),
        classes: Classes::default(),
        spent: Duration::ZERO,
        decisions: 0,
    };
    for index in 0..workload.nodes.count {
        let zone = (workload.nodes.zones > 0).then(|| index % workload.nodes.zones.max(1));
        engine.add_node(&format!("sim-{index}"), zone, CAPACITY)?;
    }
    if workload.nodes.named {
        engine.add_node(NAMED_NODE, None, NAMED_CAPACITY)?;
    }
    for pods in &workload.init {
        engine.decide(infos(pods, "init")?)?;
    }
    let all = beside(infos(&workload.measured, "measured")?, workload.beside)?;
    (engine.spent, engine.decisions) = (Duration::ZERO, 0);
    match workload.beside {
        Beside::Churn(each) => {
            for (n, some) in all.chunks(each).enumerate() {
                let name = format!("churn-{n}");
                engine.add_node(&name, None, CAPACITY)?;
                engine.decide(some.to_vec())?;
                engine.snapshot.remove_node(&name);
            }
        }
        _ => engine.decide(all)?,
    }
    let seconds = engine.spent.as_secs_f64();
    let decisions = engine.decisions;
    let (per_second, micros) = (decisions as f64 / seconds, seconds * 1e6 / decisions as f64);
    Ok(Some(Found { decisions, per_second, micros }))
}

fn infos(pods: &Pods, prefix: &str) -> anyhow::Result<Vec<PodInfo>> {
    let (space, spaces) = pods.namespaces;
    let info = |n: usize| {
        let namespace = format!("{space}-{}", n % spaces);
        let namespace = if spaces == 1 { space } else { &namespace };
        info(pods.template, namespace, &format!("{prefix}-{:?}-{n}", pods.template))
    };
    (0..pods.count).map(info).collect()
}

fn info(template: Template, namespace: &str, name: &str) -> anyhow::Result<PodInfo> {
    let mut pod: Pod = serde_json::from_value(template.pod(namespace, name))?;
    pod.metadata.uid = Some(name.to_string());
    // As admission writes it.
    if let Some(spec) = &mut pod.spec {
        spec.priority = Some(template.priority());
    }
    Ok(PodInfo::of(&pod))
}

/// Adds those that fit nowhere, each of which is looked at alone. Gated pods are in no queue.
fn beside(pods: Vec<PodInfo>, beside: Beside) -> anyhow::Result<Vec<PodInfo>> {
    let (Beside::Unschedulable(each) | Beside::Churn(each)) = beside else { return Ok(pods) };
    let mut all = Vec::with_capacity(pods.len() + pods.len() / each + 1);
    for (n, pod) in pods.into_iter().enumerate() {
        if n % each == 0 {
            all.push(info(Template::Large, "sched-1", &format!("large-{n}"))?);
        }
        all.push(pod);
    }
    Ok(all)
}

impl Engine {
    fn add_node(&mut self, name: &str, zone: Option<usize>, capacity: &str) -> anyhow::Result<()> {
        let node: Node = serde_json::from_value(node(name, zone, capacity))?;
        self.snapshot.set_node(&node);
        Ok(())
    }

    /// Decides about all of them; pods for which others leave come again, as nominees.
    fn decide(&mut self, mut pods: Vec<PodInfo>) -> anyhow::Result<()> {
        for _ in 0..MOST_ROUNDS {
            let mut again = Vec::new();
            for some in pods.chunks(BATCH) {
                let some = some.to_vec();
                let begin = Instant::now();
                let (snapshot, classes) = (&mut self.snapshot, &mut self.classes);
                let decisions = cycle::schedule_with(some, snapshot, &self.framework, classes);
                self.spent += begin.elapsed();
                again.extend(self.carry_out(decisions)?);
            }
            if again.is_empty() {
                return Ok(());
            }
            pods = again;
        }
        anyhow::bail!("{} pods are never decided on", pods.len())
    }

    fn carry_out(&mut self, decisions: Vec<Decision>) -> anyhow::Result<Vec<PodInfo>> {
        let mut again = Vec::new();
        for decision in decisions {
            match decision {
                Decision::Bind { .. } | Decision::Refuse { .. } => self.decisions += 1,
                Decision::Preempt { pod, preemption, .. } => {
                    let begin = Instant::now();
                    for victim in &preemption.victims {
                        self.snapshot.remove_pod(&victim.uid);
                    }
                    self.spent += begin.elapsed();
                    again.push(pod);
                }
                Decision::Later { pod } => again.push(pod),
                other => anyhow::bail!("nobody expects {other:?}"),
            }
        }
        Ok(again)
    }
}
