//! Prefers nodes with the most room left.

use crate::scheduler::framework::{MAX_SCORE, ScorePlugin};
use crate::scheduler::snapshot::{NodeInfo, PodInfo};

pub struct LeastAllocated;

/// What a pod that requests nothing counts for here, so that such pods spread too.
const SMALL_MILLI_CPU: i64 = 10;
const SMALL_MEMORY_BYTES: i64 = 8 << 20;

/// The part of a resource that stays free after placing, from 0 to [`MAX_SCORE`].
fn free_share(total: i64, taken: i64) -> i64 {
    if total <= 0 || taken > total { 0 } else { (total - taken) * MAX_SCORE / total }
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
        let (wants, has, pods) = (&pod.wants.requests, &node.allocatable, node.pods + 1);
        let cpu = node.requested.milli_cpu + wants.milli_cpu;
        let memory = node.requested.memory_bytes + wants.memory_bytes;
        let cpu = free_share(has.milli_cpu, cpu.max(pods * SMALL_MILLI_CPU));
        let memory = free_share(has.memory_bytes, memory.max(pods * SMALL_MEMORY_BYTES));
        (cpu + memory + free_share(node.allocatable_pods, pods)) / 3
    }

    fn depends_on_pods(&self) -> bool {
        true
    }
}
