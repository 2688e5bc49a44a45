//! A pod goes where its claims' volumes are, or where they can be (upstream's VolumeBinding), and not
//! beside another pod with a claim that is for one pod alone (upstream's VolumeRestrictions).

use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;
use crate::scheduler::volumes::suits;

const TAKEN: &str = "node has pod using PersistentVolumeClaim with the same name and \
                     ReadWriteOncePod access mode";
const NOT_THERE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";

pub struct VolumeBinding;

impl FilterPlugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let needs = &pod.volumes;
        let why = if needs.is_taken() {
            TAKEN
        } else if needs.lacks_volume {
            NOT_THERE
        } else if !needs.affinities.iter().all(|affinity| suits(affinity, node)) {
            ELSEWHERE
        } else {
            return needs.steps(node).map(drop).map_err(|why| vec![why]);
        };
        Err(vec![why.into()])
    }

    fn is_resolvable(&self, pod: &PodInfo, _: &NodeInfo) -> bool {
        pod.volumes.is_taken()
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node, Wake::PodGone, Wake::Volume]
    }
}
