//! Prefers nodes where CPU and memory would be used in equal parts, so that neither strands the
//! other.

use crate::scheduler::framework::{MAX_SCORE, ScorePlugin};
use crate::scheduler::snapshot::{NodeInfo, PodInfo};

pub struct BalancedAllocation;

impl ScorePlugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let wants = &pod.wants.requests;
        let share = |taken: i64, total: i64| {
            if total <= 0 { MAX_SCORE } else { (taken * MAX_SCORE / total).clamp(0, MAX_SCORE) }
        };
        let cpu = share(node.requested.milli_cpu + wants.milli_cpu, node.allocatable.milli_cpu);
        let memory =
            share(node.requested.memory_bytes + wants.memory_bytes, node.allocatable.memory_bytes);
        MAX_SCORE - (cpu - memory).abs() / 2
    }

    fn depends_on_pods(&self) -> bool {
        true
    }
}
