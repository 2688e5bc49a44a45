//! What would help a pod that nobody takes, by the plugin that refused it: told in its events and by
//! [`super::why`].

/// Where a pod's schedulerName is nobody's here.
pub const OTHER_SCHEDULER: &str = "name a profile of this cluster's scheduler in spec.schedulerName, or run \
                                   a scheduler of that name";

/// Where no Workload says how many pods of a group are needed.
pub const NO_WORKLOAD: &str = "create that Workload with that pod group, or name another one in \
                               spec.workloadRef";

/// Where pods of a gang are missing.
pub const FEW_PODS: &str = "create more pods of the group, or ask for fewer at once (minCount)";

/// Where there are no nodes at all.
pub const NO_NODES: &str = "there are no nodes: join one (wasmfleet node --help)";

const ADVICE: &[(&str, &str)] = &[
    ("NodeUnschedulable", "let pods onto a node again that was cordoned (wasmctl uncordon NODE)"),
    ("NodeName", "spec.nodeName names no node that is there"),
    (
        "TaintToleration",
        "let the pod tolerate the taints of a node (spec.tolerations), or take a taint away (wasmctl \
         taint node NODE KEY-); a node that is not ready or low on memory or disk has one until that is \
         mended",
    ),
    (
        "NodeAffinity",
        "label a node as spec.nodeSelector or spec.affinity.nodeAffinity asks, or ask for less",
    ),
    (
        "WasmFeatures",
        "add nodes whose runtime has what the pod's programs import (status.declaredFeatures), or \
         build the programs for what there is",
    ),
    ("NodePorts", "use another hostPort, or add nodes: each gives a port to one pod"),
    (ROOM, "ask for less, give pods of lower priority up, or add nodes"),
    (
        "VolumeBinding",
        "look at the pod's claims (wasmctl describe pvc): their volumes are elsewhere, or there are \
         none",
    ),
    (
        "VolumeZone",
        "add nodes in the zone of the pod's volumes (wasmctl get pv --show-labels), or mend the volumes' \
         labels",
    ),
    (
        "PodTopologySpread",
        "raise maxSkew, say whenUnsatisfiable: ScheduleAnyway, or add nodes in the domains with the \
         fewest of these pods",
    ),
    (
        "InterPodAffinity",
        "look at the pods that this one must be with or away from; add nodes in other domains, or say \
         preferred instead of required",
    ),
];

/// The plugin of room on nodes,
pub const ROOM: &str = "NodeResourcesFit";
/// and what would help where no node has as much, whoever leaves.
const TOO_LARGE: &str =
    "ask for less, or add larger nodes: none that may be used has so much, even without pods";

/// What would help where a plugin refused; `may_leave` says whether pods that leave may.
pub fn of(plugin: &str, may_leave: bool) -> Option<&'static str> {
    if plugin == ROOM && !may_leave {
        return Some(TOO_LARGE);
    }
    ADVICE.iter().find(|(name, _)| *name == plugin).map(|(_, text)| *text)
}
