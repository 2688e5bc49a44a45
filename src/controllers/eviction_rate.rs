//! How fast nodes that are lost may be emptied, by zone: one node after the other, slower or not at
//! all where most of a zone is gone, which is a fault of the network more likely than of machines.
//! One zone that is gone as a whole is emptied at the usual pace: the others have what it had.
//! Source: k8s.io/kubernetes pkg/controller/nodelifecycle (ComputeZoneState, setLimiterInZone);
//! `--node-eviction-rate`, `--secondary-node-eviction-rate`, `--unhealthy-zone-threshold`,
//! `--large-cluster-size-threshold`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use super::node_lifecycle::is_lost;
use super::ownership::{labels, name};
use crate::client::cache::View;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Between two nodes of a zone, and of a large one of which most is lost.
const USUAL: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(100);
/// Most of a zone: so many in a hundred of its nodes, and more than this number.
const MOST_PERCENT: usize = 55;
const FEW_NODES: usize = 2;
/// Zones beyond this size are large.
const LARGE_NODES: usize = 50;

/// Which nodes were given leave, and when the last one was, by zone.
#[derive(Default)]
pub struct EvictionRate {
    zones: Mutex<BTreeMap<String, Zone>>,
    /// Lost nodes whose pods stay since most nodes are lost.
    stopped: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Zone {
    last: Option<Timestamp>,
    /// Nodes that are being emptied; one that was begun with is finished.
    begun: BTreeSet<String>,
}

/// Whether pods of a lost node may be evicted.
#[derive(Debug, PartialEq, Eq)]
pub enum Leave {
    Now,
    After(Duration),
    /// Most of its zone is lost.
    Stopped,
}

impl EvictionRate {
    /// Asks for a node that is lost; remembers that it was given leave.
    pub fn ask(&self, node: &Node, view: &View, grace: Duration, now: Timestamp) -> Leave {
        let zone = zone_of(node);
        let Some(pace) = pace(&zone, view, grace) else { return Leave::Stopped };
        let mut zones = self.zones.lock();
        let zone = zones.entry(zone).or_default();
        if zone.begun.contains(name(&node.metadata)) {
            return Leave::Now;
        }
        // A clock that was set back must not make the wait longer.
        let last = zone.last.map(|last| last.min(now));
        let passed = last.map(|last| now.duration_since(last));
        let left = passed.and_then(|passed| {
            let pace = SignedDuration::try_from(pace).unwrap_or(SignedDuration::MAX);
            Duration::try_from(pace - passed).ok().filter(|left| !left.is_zero())
        });
        if let Some(left) = left {
            return Leave::After(left);
        }
        zone.last = Some(now);
        zone.begun.insert(name(&node.metadata).into());
        Leave::Now
    }

    /// A node that is back, or gone, asks anew the next time.
    pub fn forget(&self, node: &str) {
        for zone in self.zones.lock().values_mut() {
            zone.begun.remove(node);
        }
        self.stopped.lock().remove(node);
    }

    /// Remembers whether the pods of a lost node stay for that; answers whether it was otherwise
    /// before.
    pub fn note_stopped(&self, node: &str, is_stopped: bool) -> bool {
        let mut stopped = self.stopped.lock();
        if is_stopped { stopped.insert(node.into()) } else { stopped.remove(node) }
    }
}

fn zone_of(node: &Node) -> String {
    let labels = labels(&node.metadata);
    let of = |key: &str| labels.get(key).map_or("", String::as_str);
    format!("{}/{}", of(REGION), of(ZONE))
}

/// The time between two nodes of a zone; `None`: none is emptied.
fn pace(zone: &str, view: &View, grace: Duration) -> Option<Duration> {
    let nodes = view.all::<Node>().filter(|node| zone_of(node) == zone);
    let (mut total, mut lost) = (0, 0);
    for node in nodes {
        total += 1;
        lost += usize::from(is_lost(node, view, grace));
    }
    let is_most = lost > FEW_NODES && lost * 100 >= total * MOST_PERCENT;
    match is_most && lost < total {
        false => Some(USUAL),
        true if total > LARGE_NODES => Some(SLOW),
        true => None,
    }
}
