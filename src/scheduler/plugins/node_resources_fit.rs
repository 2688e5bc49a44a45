//! A node must have room: CPU, memory, extended resources, and the number of pods.

use std::collections::BTreeMap;

use crate::base::planted::planted;
use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::resources::Amount;
use crate::scheduler::snapshot::NodeInfo;

#[derive(Default)]
pub struct NodeResourcesFit {
    pub ignored: Ignored,
}

/// Resources of which nodes need not have enough, since somebody else looks at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    pub names: Vec<String>,
    /// What stands before the slash of a name.
    pub groups: Vec<String>,
}

impl Ignored {
    fn has(&self, name: &str) -> bool {
        let group = name.split_once('/').map(|(group, _)| group);
        self.names.iter().any(|one| one == name)
            || group.is_some_and(|group| self.groups.iter().any(|one| one == group))
    }
}

impl FilterPlugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let (wants, has, taken) = (&pod.wants.requests, &node.allocatable, &node.requested);
        let lacks = |wanted: Amount, taken: Amount, has: Amount| {
            let more = if planted("a node takes one pod too many") { wanted } else { 0 };
            wanted > 0 && taken + wanted > has + more
        };
        let mut reasons = Reasons::new();
        if node.pods >= node.allocatable_pods {
            reasons.push("Too many pods".into());
        }
        if lacks(wants.milli_cpu, taken.milli_cpu, has.milli_cpu) {
            reasons.push("Insufficient cpu".into());
        }
        if lacks(wants.memory_bytes, taken.memory_bytes, has.memory_bytes) {
            reasons.push("Insufficient memory".into());
        }
        for (name, wanted) in wants.others.iter().filter(|(name, _)| !self.ignored.has(name)) {
            let of = |map: &BTreeMap<String, Amount>| map.get(name).copied().unwrap_or(0);
            if lacks(*wanted, of(&taken.others), of(&has.others)) {
                reasons.push(format!("Insufficient {name}").into());
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn depends_on_pods(&self) -> bool {
        true
    }

    /// What exceeds the whole node does not fit, whoever leaves.
    fn is_resolvable(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let (wants, has) = (&pod.wants.requests, &node.allocatable);
        let mut others = wants.others.iter().filter(|(name, _)| !self.ignored.has(name));
        wants.milli_cpu <= has.milli_cpu
            && wants.memory_bytes <= has.memory_bytes
            && others.all(|(name, wanted)| *wanted <= has.others.get(name).copied().unwrap_or(0))
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node, Wake::PodGone]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::pod_info::Wants;
    use crate::scheduler::resources::Resources;

    fn pod(milli_cpu: Amount, memory_bytes: Amount) -> PodInfo {
        let requests = Resources { milli_cpu, memory_bytes, ..Resources::default() };
        let wants = Wants { requests, ..Wants::default() };
        PodInfo {
            key: crate::api::ObjectKey::new("n", "p"),
            uid: "u".into(),
            wants: wants.into(),
            ..PodInfo::default()
        }
    }

    #[test]
    fn counts_pods_and_cpu() {
        let fit = NodeResourcesFit::default();
        let mut node = NodeInfo { allocatable_pods: 1, ..NodeInfo::default() };
        std::sync::Arc::make_mut(&mut node.allocatable).milli_cpu = 100;
        assert_eq!(fit.filter(&pod(100, 0), &node), Ok(()));
        let short = |reasons: &[&'static str]| Err(reasons.iter().map(|r| (*r).into()).collect());
        assert_eq!(fit.filter(&pod(101, 0), &node), short(&["Insufficient cpu"]));
        node.pods = 1;
        assert_eq!(fit.filter(&pod(0, 0), &node), short(&["Too many pods"]));
        let all = short(&["Too many pods", "Insufficient cpu", "Insufficient memory"]);
        assert_eq!(fit.filter(&pod(101, 1), &node), all);
    }

    #[test]
    fn some_resources_are_others_affair() {
        let node = NodeInfo { allocatable_pods: 1, ..NodeInfo::default() };
        let mut pod = pod(0, 0);
        let wants = std::sync::Arc::make_mut(&mut pod.wants);
        wants.requests.others.insert("example.com/gpu".into(), 1);
        assert!(NodeResourcesFit::default().filter(&pod, &node).is_err());
        for (names, groups) in [(vec!["example.com/gpu"], vec![]), (vec![], vec!["example.com"])] {
            let [names, groups] =
                [names, groups].map(|list: Vec<&str>| list.into_iter().map(String::from).collect());
            let fit = NodeResourcesFit { ignored: Ignored { names, groups } };
            assert_eq!(fit.filter(&pod, &node), Ok(()));
        }
    }
}
