//! A node must have room: CPU, memory, extended resources, and the number of pods.

use crate::scheduler::framework::{FilterPlugin, Wake};
use crate::scheduler::snapshot::{NodeInfo, PodInfo};

pub struct NodeResourcesFit;

impl FilterPlugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
        let (wants, free) = (&pod.wants.requests, &node.allocatable);
        let taken = &node.requested;
        if node.pods + 1 > node.allocatable_pods {
            return Err("Too many pods".into());
        }
        if wants.milli_cpu > 0 && taken.milli_cpu + wants.milli_cpu > free.milli_cpu {
            return Err("Insufficient cpu".into());
        }
        if wants.memory_bytes > 0 && taken.memory_bytes + wants.memory_bytes > free.memory_bytes {
            return Err("Insufficient memory".into());
        }
        for (name, amount) in &wants.others {
            let of =
                |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
            if *amount > 0 && of(&taken.others) + amount > of(&free.others) {
                return Err(format!("Insufficient {name}"));
            }
        }
        Ok(())
    }

    fn depends_on_pods(&self) -> bool {
        true
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node, Wake::PodGone]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::snapshot::{Resources, Wants};

    fn pod(milli_cpu: i64) -> PodInfo {
        let requests = Resources { milli_cpu, ..Resources::default() };
        let wants = Wants { requests, ..Wants::default() };
        PodInfo { key: crate::api::ObjectKey::new("n", "p"), uid: "u".into(), wants: wants.into() }
    }

    #[test]
    fn counts_pods_and_cpu() {
        let mut node = NodeInfo { allocatable_pods: 1, ..NodeInfo::default() };
        node.allocatable.milli_cpu = 100;
        assert_eq!(NodeResourcesFit.filter(&pod(100), &node), Ok(()));
        assert_eq!(NodeResourcesFit.filter(&pod(101), &node), Err("Insufficient cpu".into()));
        node.pods = 1;
        assert_eq!(NodeResourcesFit.filter(&pod(0), &node), Err("Too many pods".into()));
    }
}
