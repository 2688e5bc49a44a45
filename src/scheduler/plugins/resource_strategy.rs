//! How full a node should be: the score of the plugin NodeResourcesFit, by one of three strategies.
//! Source: k8s.io/kubernetes pkg/scheduler/framework/plugins/noderesources, and
//! kubescheduler.config.k8s.io ScoringStrategy.

use std::collections::BTreeMap;

use crate::scheduler::framework::{MAX_SCORE, ScorePlugin, share};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::resources::Amount;
use crate::scheduler::snapshot::NodeInfo;

/// What a pod that requests nothing counts for here, so that such pods spread too.
const SMALL_MILLI_CPU: Amount = 10;
const SMALL_MEMORY_BYTES: Amount = 8 << 20;

/// What is looked at, and what is liked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strategy {
    pub kind: Kind,
    pub resources: Vec<(Resource, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The most room left.
    LeastAllocated,
    /// The least room left, so that few nodes are full and the others empty.
    MostAllocated,
    /// Points, from the lowest to the highest: a used part of a resource and its score, both from 0
    /// to [`MAX_SCORE`]; straight lines between them.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// What nodes have and pods ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
    /// Places for pods.
    Pods,
    Other(String),
}

impl Resource {
    pub fn named(name: &str) -> Resource {
        match name {
            "cpu" => Resource::Cpu,
            "memory" => Resource::Memory,
            "pods" => Resource::Pods,
            other => Resource::Other(other.into()),
        }
    }

    /// What there is of it, and what is taken with the pod; `None` where it does not matter.
    fn of(&self, pod: &PodInfo, node: &NodeInfo) -> Option<(Amount, Amount)> {
        let (wants, has, taken) = (&pod.wants.requests, &node.allocatable, &node.requested);
        let pods = Amount::from(node.pods) + 1;
        let (total, used) = match self {
            Resource::Cpu => {
                let cpu = taken.milli_cpu + wants.milli_cpu;
                (has.milli_cpu, cpu.max(pods * SMALL_MILLI_CPU))
            }
            Resource::Memory => {
                let memory = taken.memory_bytes + wants.memory_bytes;
                (has.memory_bytes, memory.max(pods * SMALL_MEMORY_BYTES))
            }
            Resource::Pods => (node.allocatable_pods.into(), pods),
            Resource::Other(name) => {
                let of = |map: &BTreeMap<String, Amount>| map.get(name).copied().unwrap_or(0);
                let wanted = of(&wants.others);
                if wanted == 0 {
                    return None;
                }
                (of(&has.others), of(&taken.others) + wanted)
            }
        };
        (total > 0).then_some((total, used))
    }
}

impl Default for Strategy {
    /// CPU, memory and places in equal parts.
    fn default() -> Strategy {
        let resources = vec![(Resource::Cpu, 1), (Resource::Memory, 1), (Resource::Pods, 1)];
        Strategy { kind: Kind::LeastAllocated, resources }
    }
}

impl Kind {
    fn score(&self, total: Amount, used: Amount) -> i64 {
        match self {
            Kind::LeastAllocated => share(total - used, total).unwrap_or(0),
            Kind::MostAllocated => share(used, total).unwrap_or(0),
            Kind::RequestedToCapacityRatio(shape) => {
                let used = share(used, total).unwrap_or(MAX_SCORE);
                on_line(shape, used)
            }
        }
    }
}

/// The score at a used part.
fn on_line(shape: &[(i64, i64)], used: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for (at, score) in shape.iter().copied() {
        if used <= at {
            return match before {
                Some((from, lower)) if at > from => {
                    lower + (score - lower) * (used - from) / (at - from)
                }
                _ => score,
            };
        }
        before = Some((at, score));
    }
    before.map_or(0, |(_, score)| score)
}

impl ScorePlugin for Strategy {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    /// The weighted mean over the resources.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &self.resources {
            let Some((total, used)) = resource.of(pod, node) else { continue };
            let score = self.kind.score(total, used);
            // As upstream: what has no score by its ratio does not count.
            if score == 0 && matches!(self.kind, Kind::RequestedToCapacityRatio(_)) {
                continue;
            }
            sum += score * weight;
            weights += weight;
        }
        if weights == 0 { 0 } else { sum / weights }
    }

    fn depends_on_pods(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scheduler::pod_info::Wants;
    use crate::scheduler::resources::Resources;

    fn node(milli_cpu: Amount) -> NodeInfo {
        let requested = Resources { milli_cpu, ..Resources::default() };
        let mut allocatable = Resources { milli_cpu: 1000, ..Resources::default() };
        allocatable.others.insert("example.com/gpu".into(), 4);
        NodeInfo { allocatable: Arc::new(allocatable), requested, ..NodeInfo::default() }
    }

    fn pod(milli_cpu: Amount, gpus: Amount) -> PodInfo {
        let mut requests = Resources { milli_cpu, ..Resources::default() };
        if gpus > 0 {
            requests.others.insert("example.com/gpu".into(), gpus);
        }
        PodInfo { wants: Wants { requests, ..Wants::default() }.into(), ..PodInfo::default() }
    }

    fn strategy(kind: Kind, resources: &[(&str, i64)]) -> Strategy {
        let named = resources.iter().map(|(name, weight)| (Resource::named(name), *weight));
        Strategy { kind, resources: named.collect() }
    }

    #[test]
    fn room_is_left_or_filled() {
        let least = strategy(Kind::LeastAllocated, &[("cpu", 1), ("memory", 1)]);
        let most = strategy(Kind::MostAllocated, &[("cpu", 1), ("memory", 1)]);
        // It has no memory, which does not count then.
        assert_eq!(least.score(&pod(100, 0), &node(100)), 8000);
        assert_eq!(most.score(&pod(100, 0), &node(100)), 2000);
        assert_eq!(
            (least.score(&pod(2000, 0), &node(0)), most.score(&pod(2000, 0), &node(0))),
            (0, MAX_SCORE)
        );
    }

    #[test]
    fn other_resources_count_for_those_who_ask() {
        let most = strategy(Kind::MostAllocated, &[("cpu", 1), ("example.com/gpu", 3)]);
        assert_eq!(most.score(&pod(100, 0), &node(100)), 2000);
        assert_eq!(most.score(&pod(100, 1), &node(100)), (2000 + 3 * 2500) / 4);
    }

    #[test]
    fn a_shape_of_points() {
        let shape = vec![(2000, 0), (5000, MAX_SCORE), (10_000, 2000)];
        let score = |used| on_line(&shape, used);
        assert_eq!([score(0), score(2000), score(3500), score(5000)], [0, 0, 5000, MAX_SCORE]);
        assert_eq!([score(7500), score(10_000)], [6000, 2000]);
        let ratio =
            strategy(Kind::RequestedToCapacityRatio(shape), &[("cpu", 1), ("example.com/gpu", 5)]);
        // A tenth of the processors in use has no score, and does not count.
        assert_eq!(ratio.score(&pod(100, 2), &node(0)), MAX_SCORE);
        assert_eq!(ratio.score(&pod(100, 0), &node(0)), 0);
    }
}
