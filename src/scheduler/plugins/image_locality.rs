//! Prefers nodes that have the pod's artifacts already: no pull, and the compiled code is there.

use crate::scheduler::framework::{MAX_SCORE, ScorePlugin};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

pub struct ImageLocality;

/// A pull costs little here, so locality must not pile pods up on one node.
const MOST: i64 = MAX_SCORE / 300;

impl ScorePlugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    /// Small: Wasm artifacts are small, and spreading matters more than one pull.
    fn weight(&self) -> i64 {
        1
    }

    /// The share of the pod's images that the node has, at most what a pod or two weigh.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let images = &pod.wants.images;
        let total = i64::try_from(images.len()).unwrap_or(i64::MAX);
        if total == 0 {
            return 0;
        }
        let there = images.iter().filter(|image| node.images.contains_key(*image)).count();
        i64::try_from(there).unwrap_or(total) * MOST / total
    }
}
