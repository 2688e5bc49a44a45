//! Honours `spec.nodeName` that the user set.

use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

pub struct NodeName;

impl FilterPlugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let wanted = &pod.wants.node_name;
        if wanted.is_empty() || **wanted == *node.name {
            return Ok(());
        }
        Err(vec!["node(s) didn't match the requested node name".into()])
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node]
    }
}
