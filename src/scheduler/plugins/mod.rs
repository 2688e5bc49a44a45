//! The plugins, one file each. To add one: write its file, add its line here.

mod balanced_allocation;
mod image_locality;
mod inter_pod_affinity;
mod least_allocated;
pub(super) mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
pub(super) mod taint_toleration;
mod volume_binding;

use super::framework::Framework;

/// The default set, filters from cheap to dear.
pub fn default_framework() -> Framework {
    Framework {
        filters: vec![
            Box::new(node_unschedulable::NodeUnschedulable),
            Box::new(node_name::NodeName),
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(node_ports::NodePorts),
            Box::new(node_resources_fit::NodeResourcesFit),
            Box::new(volume_binding::VolumeBinding),
        ],
        scores: vec![
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(least_allocated::LeastAllocated),
            Box::new(balanced_allocation::BalancedAllocation),
            Box::new(image_locality::ImageLocality),
        ],
        domains: vec![
            Box::new(pod_topology_spread::PodTopologySpread),
            Box::new(inter_pod_affinity::InterPodAffinity),
        ],
    }
}
