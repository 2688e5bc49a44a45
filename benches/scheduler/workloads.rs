//! The workloads: which nodes, which pods before, which pods measured. Names, numbers and templates
//! are those of upstream's performance-config.yaml files; the number of high-priority pods that
//! preempt is of the case that is switched off there, because it never ends.

use wasmfleet::api::kinds::POD_SPEC;
use wasmfleet::api::kinds::pod_fields::{Row, Verdict};

use crate::templates::Template;

/// One row.
#[derive(Clone)]
pub struct Workload {
    pub name: &'static str,
    pub nodes: Nodes,
    pub init: Vec<Pods>,
    pub measured: Pods,
    /// What happens meanwhile.
    pub beside: Beside,
    /// Pods a second that upstream's CI demands.
    pub gate: Option<u16>,
    pub aim_inside: u32,
    pub aim_outside: u32,
}

#[derive(Clone, Copy)]
pub struct Nodes {
    pub count: usize,
    /// The zones among which they take turns; 0: none.
    pub zones: usize,
    /// Whether one more, with room for everybody, is the only one that some pods may go to.
    pub named: bool,
}

#[derive(Clone, Copy)]
pub struct Pods {
    pub count: usize,
    pub template: Template,
    /// Spread over so many namespaces, whose names are the prefix and a number.
    pub namespaces: (&'static str, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// One pod that fits nowhere for each so many.
    Unschedulable(usize),
    /// A node comes and goes, and a pod that fits nowhere, for each so many.
    Churn(usize),
    /// So many pods wait at a gate.
    Gated(usize),
}

const fn pods(count: usize, template: Template, namespace: &'static str) -> Pods {
    Pods { count, template, namespaces: (namespace, 1) }
}

const fn plain(count: usize) -> Nodes {
    Nodes { count, zones: 0, named: false }
}

const fn zoned(count: usize, zones: usize) -> Nodes {
    Nodes { count, zones, named: false }
}

/// Namespaces of pods that others select by their namespaces' labels.
const MANY: (&str, usize) = ("init-ns", 100);

pub static WORKLOADS: std::sync::LazyLock<Vec<Workload>> = std::sync::LazyLock::new(|| {
    use Template::*;
    let row = |name, nodes, init: &[Pods], measured, gate: u16, aim_inside, aim_outside| Workload {
        name,
        nodes,
        init: init.to_vec(),
        measured,
        beside: Beside::Nothing,
        gate: (gate > 0).then_some(gate),
        aim_inside,
        aim_outside,
    };
    let before = |count, template| pods(count, template, "sched-0");
    let measured = |count, template| pods(count, template, "sched-1");
    let many = |count, template| Pods { count, template, namespaces: MANY };
    // The aims: plain pods and those with rules about other pods.
    let (plain_aim, rules_aim, bound_aim) = (50_000, 5_000, 5_000);
    let with = |beside, workload| Workload { beside, ..workload };
    vec![
        row(
            "SchedulingBasic/5000Nodes_10000Pods",
            plain(5000),
            &[before(1000, Default)],
            measured(10_000, Default),
            680,
            plain_aim,
            bound_aim,
        ),
        row(
            "SchedulingBasic/5000Nodes_50000Pods",
            plain(5000),
            &[before(5000, Default)],
            measured(50_000, Default),
            810,
            plain_aim,
            bound_aim,
        ),
        row(
            "SchedulingNodeAffinity/5000Nodes_10000Pods",
            zoned(5000, 1),
            &[before(5000, NodeAffinity)],
            measured(10_000, NodeAffinity),
            220,
            plain_aim,
            bound_aim,
        ),
        row(
            "SchedulingDaemonset/15000Nodes",
            Nodes { named: true, ..plain(15_000) },
            &[],
            measured(30_000, Daemon),
            1100,
            plain_aim,
            bound_aim,
        ),
        with(
            Beside::Gated(10_000),
            row(
                "SchedulingWhileGated/1Node_10000GatedPods",
                Nodes { named: true, ..plain(0) },
                &[],
                measured(20_000, Light),
                910,
                plain_aim,
                bound_aim,
            ),
        ),
        with(
            Beside::Unschedulable(120),
            row(
                "Unschedulable/5kNodes/20kInit/10kPods",
                plain(5000),
                &[before(20_000, Default)],
                measured(10_000, Default),
                600,
                rules_aim,
                bound_aim,
            ),
        ),
        with(
            Beside::Churn(700),
            row(
                "SchedulingWithMixedChurn/5000Nodes_10000Pods",
                plain(5000),
                &[],
                measured(10_000, Default),
                710,
                plain_aim,
                bound_aim,
            ),
        ),
        row(
            "PreemptionBasic/5000Nodes",
            plain(5000),
            &[before(20_000, LowPriority)],
            measured(5000, HighPriority),
            0,
            rules_aim,
            bound_aim,
        ),
        row(
            "TopologySpreading/5000Nodes_5000Pods",
            zoned(5000, 3),
            &[before(5000, Default)],
            measured(5000, Spread),
            460,
            rules_aim,
            bound_aim,
        ),
        row(
            "PreferredTopologySpreading/5000Nodes_5000Pods",
            zoned(5000, 3),
            &[before(5000, Default)],
            measured(5000, PreferredSpread),
            340,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingPodAffinity/5000Nodes_5000Pods",
            zoned(5000, 1),
            &[before(5000, Affinity)],
            measured(5000, Affinity),
            35,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingPodAntiAffinity/5000Nodes_2000Pods",
            plain(5000),
            &[before(1000, AntiAffinity)],
            measured(2000, AntiAffinity),
            60,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingPreferredPodAffinity/5000Nodes_5000Pods",
            plain(5000),
            &[before(5000, PreferredAffinity)],
            measured(5000, PreferredAffinity),
            90,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingPreferredPodAntiAffinity/5000Nodes_5000Pods",
            plain(5000),
            &[before(5000, PreferredAntiAffinity)],
            measured(5000, PreferredAntiAffinity),
            90,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingRequiredPodAntiAffinityWithNSSelector/5000Nodes_2000Pods",
            plain(6000),
            &[many(4000, AntiAffinityNs)],
            measured(2000, AntiAffinityNs),
            24,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingPreferredAntiAffinityWithNSSelector/5000Nodes_2000Pods",
            plain(5000),
            &[many(4000, PreferredAntiAffinityNs)],
            measured(2000, PreferredAntiAffinityNs),
            55,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingRequiredPodAffinityWithNSSelector/5000Nodes_2000Pods",
            zoned(5000, 1),
            &[many(5000, AffinityNs)],
            measured(2000, AffinityNs),
            35,
            rules_aim,
            bound_aim,
        ),
        row(
            "SchedulingPreferredAffinityWithNSSelector/5000Nodes_5000Pods",
            plain(5000),
            &[many(5000, PreferredAffinityNs)],
            measured(5000, PreferredAffinityNs),
            90,
            rules_aim,
            bound_aim,
        ),
        row(
            "MixedSchedulingBasePod/5000Nodes_5000Pods",
            zoned(5000, 1),
            &[
                before(2000, Default),
                before(2000, Affinity),
                before(2000, AntiAffinity),
                before(2000, PreferredAffinity),
                before(2000, PreferredAntiAffinity),
            ],
            measured(5000, Default),
            140,
            rules_aim,
            bound_aim,
        ),
    ]
});

impl Workload {
    /// The same, a hundred times smaller.
    pub fn small(&self) -> Workload {
        let less = |count: usize| count.div_ceil(100);
        let pods = |pods: &Pods| Pods {
            count: less(pods.count),
            namespaces: (pods.namespaces.0, pods.namespaces.1.div_ceil(25)),
            ..*pods
        };
        Workload {
            nodes: Nodes { count: less(self.nodes.count), ..self.nodes },
            init: self.init.iter().map(pods).collect(),
            measured: pods(&self.measured),
            beside: match self.beside {
                Beside::Gated(count) => Beside::Gated(less(count)),
                Beside::Unschedulable(each) => Beside::Unschedulable(each / 10),
                Beside::Churn(each) => Beside::Churn(each / 10),
                Beside::Nothing => Beside::Nothing,
            },
            ..self.clone()
        }
    }

    /// The field that its pods need and this build does not honour.
    pub fn missing(&self) -> Option<&'static str> {
        let templates = self.init.iter().chain([&self.measured]).map(|pods| pods.template);
        let gated = matches!(self.beside, Beside::Gated(_)).then_some(Template::Gated);
        let templates = templates.chain(gated);
        let mut fields = templates.filter_map(|template| template.needs());
        fields.find(|field| !is_honoured(POD_SPEC, field))
    }
}

/// Whether a field of a pod's spec, by its path, has its effect.
fn is_honoured(rows: &[Row], path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, ""), |(first, rest)| (first, rest));
    let Some(row) = rows.iter().find(|row| row.field == first) else { return false };
    match row.verdict {
        Verdict::Refused | Verdict::Warned => false,
        Verdict::Within(rows) if !rest.is_empty() => is_honoured(rows, rest),
        _ => true,
    }
}
