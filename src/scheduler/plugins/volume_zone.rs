//! A pod goes to the zone and region that its claims' volumes say they are in by their labels
//! (upstream's VolumeZone).

use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;
use crate::scheduler::volumes::is_within;

pub struct VolumeZone;

impl FilterPlugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        match is_within(&pod.volumes.zones, node) {
            true => Ok(()),
            false => Err(vec!["node(s) had no available volume zone".into()]),
        }
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node, Wake::Volume]
    }
}
