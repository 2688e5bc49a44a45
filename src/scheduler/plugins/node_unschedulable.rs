//! Keeps pods off cordoned nodes (`spec.unschedulable`), unless they tolerate the cordon's taint.

use super::taint_toleration::tolerates;
use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;
use k8s_openapi::api::core::v1::Taint;

pub struct NodeUnschedulable;

impl FilterPlugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        if !node.unschedulable {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if tolerates(&pod.wants.tolerations, &taint) {
            return Ok(());
        }
        Err(vec!["node(s) were unschedulable".into()])
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node]
    }
}
