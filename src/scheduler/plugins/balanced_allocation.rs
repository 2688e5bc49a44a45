//! Prefers nodes where CPU and memory would be used in equal parts, so that neither strands the
//! other.

use crate::scheduler::framework::{MAX_SCORE, ScorePlugin, share};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

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
        let used = |taken, total| share(taken, total).unwrap_or(MAX_SCORE);
        let cpu = used(node.requested.milli_cpu + wants.milli_cpu, node.allocatable.milli_cpu);
        let memory =
            used(node.requested.memory_bytes + wants.memory_bytes, node.allocatable.memory_bytes);
        MAX_SCORE - (cpu - memory).abs() / 2
    }

    fn depends_on_pods(&self) -> bool {
        true
    }
}
