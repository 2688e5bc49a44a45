//! The zones and regions of volumes, as their labels say it. Source: k8s.io/kubernetes
//! pkg/scheduler/framework/plugins/volumezone, k8s.io/cloud-provider/volume/helpers/zones.go.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::scheduler::snapshot::NodeInfo;

/// The labels of zones and regions, each with the one that took its place.
const ZONE_LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Stands between zones of one label.
const ZONE_DELIMITER: &str = "__";

/// A zone or region that a volume is in, by its label; of several any will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    key: &'static str,
    values: BTreeSet<String>,
}

/// The zones and regions that a volume is in. A label that names an empty one says nothing.
pub fn of(volume: &PersistentVolume) -> Vec<Zone> {
    let labels = volume.metadata.labels.as_ref();
    let zone = |(key, _): &(&'static str, &str)| {
        let named = labels?.get(*key)?.split(ZONE_DELIMITER).map(str::trim);
        let values: BTreeSet<String> = named.map(str::to_string).collect();
        (!values.contains("")).then_some(Zone { key, values })
    };
    ZONE_LABELS.iter().filter_map(zone).collect()
}

/// Whether a node is in the zones of volumes; one that is in none at all is in all of them.
pub fn is_within(zones: &[Zone], node: &NodeInfo) -> bool {
    let has_any = ZONE_LABELS.iter().any(|(key, _)| node.labels.contains_key(*key));
    let own = |key: &str| {
        let newer = ZONE_LABELS.iter().find(|(one, _)| *one == key).map(|(_, newer)| *newer);
        node.labels.get(key).or_else(|| node.labels.get(newer?))
    };
    !has_any || zones.iter().all(|zone| own(zone.key).is_some_and(|own| zone.values.contains(own)))
}
