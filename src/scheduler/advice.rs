//! What would help a pod that nobody takes, by the plugin that refused it: told in its events and by
//! [`super::why`].

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
    ("NodeResourcesFit", "ask for less, give pods of lower priority up, or add nodes"),
    (
        "VolumeBinding",
        "look at the pod's claims (wasmctl describe pvc): their volumes are elsewhere, or there are \
         none",
    ),
    (
        "PodTopologySpread",
        "raise maxSkew, say whenUnsatisfiable: ScheduleAnyway, or add nodes in the domains with the \
         fewest of these pods",
    ),
    (
        "VolumeZone",
        "add nodes in the zone of the pod's volumes (wasmctl get pv --show-labels), or mend the volumes' \
         labels",
    ),
    (
        "InterPodAffinity",
        "look at the pods that this one must be with or away from; add nodes in other domains, or say \
         preferred instead of required",
    ),
];

/// What would help where a plugin refused.
pub fn of(plugin: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(name, _)| *name == plugin).map(|(_, text)| *text)
}
