//! Prefers nodes with the most room left.

use crate::scheduler::framework::{ScorePlugin, share};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::resources::Amount;
use crate::scheduler::snapshot::NodeInfo;

pub struct LeastAllocated;

/// What a pod that requests nothing counts for here, so that such pods spread too.
const SMALL_MILLI_CPU: Amount = 10;
const SMALL_MEMORY_BYTES: Amount = 8 << 20;

/// The part of a resource that stays free after placing, from 0 to
/// [`MAX_SCORE`](crate::scheduler::framework::MAX_SCORE).
fn free_share(total: Amount, taken: Amount) -> i64 {
    share(total - taken, total).unwrap_or(0)
}

impl ScorePlugin for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesLeastAllocated"
    }

    fn weight(&self) -> i64 {
        1
    }

    /// The mean over CPU, memory and the number of pods.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (wants, has) = (&pod.wants.requests, &node.allocatable);
        let pods = Amount::from(node.pods) + 1;
        let cpu = node.requested.milli_cpu + wants.milli_cpu;
        let memory = node.requested.memory_bytes + wants.memory_bytes;
        let cpu = free_share(has.milli_cpu, cpu.max(pods * SMALL_MILLI_CPU));
        let memory = free_share(has.memory_bytes, memory.max(pods * SMALL_MEMORY_BYTES));
        (cpu + memory + free_share(node.allocatable_pods.into(), pods)) / 3
    }

    fn depends_on_pods(&self) -> bool {
        true
    }
}
