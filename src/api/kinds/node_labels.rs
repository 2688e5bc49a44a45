//! Which labels a node's agent may set on its own Node: none by which pods could be made to come that
//! are not meant for it. What the API server refuses (upstream's NodeRestriction), and what an agent
//! refuses at its start.

/// Labels below it are for administrators only
/// (kubernetes.io/docs/reference/labels-annotations-taints).
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that agents may set
/// (k8s.io/kubelet/pkg/apis/well_known_labels.go).
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains whose labels agents may set.
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Kubernetes' own domains.
const KUBERNETES: &[&str] = &["kubernetes.io", "k8s.io"];

/// Whether a label is for administrators: no agent may set it, change it or take it away.
pub fn is_forbidden(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |parents: &[&str]| {
        parents.iter().any(|parent| {
            domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    };
    within(&[RESTRICTED])
        || within(KUBERNETES) && !OWN_LABELS.contains(&key) && !within(OWN_DOMAINS)
}

/// What there is beside labels of other domains, for the one who asked for another.
pub fn allowed() -> String {
    format!("labels of {}, and {}", OWN_DOMAINS.join(" and "), OWN_LABELS.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_administrators() {
        for key in [
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/role",
            "x.k8s.io/y",
        ] {
            assert!(is_forbidden(key), "{key}");
        }
        for key in [
            "zone",
            "example.com/zone",
            "notkubernetes.io/x",
            "kubernetes.io/hostname",
            "node.kubernetes.io/anything",
            "a.kubelet.kubernetes.io/x",
        ] {
            assert!(!is_forbidden(key), "{key}");
        }
    }
}
