//! Two pods that want the same port of the node cannot be on one.

use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

pub struct NodePorts;

impl FilterPlugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let mut wanted = pod.wants.ports.iter();
        if wanted.any(|port| node.ports.iter().any(|taken| taken.conflicts(port))) {
            return Err(vec!["node(s) didn't have free ports for the requested pod ports".into()]);
        }
        Ok(())
    }

    fn depends_on_pods(&self) -> bool {
        true
    }

    fn is_resolvable(&self, _: &PodInfo, _: &NodeInfo) -> bool {
        true
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node, Wake::PodGone]
    }
}
