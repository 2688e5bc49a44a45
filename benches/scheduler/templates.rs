//! The nodes and pods of the workloads, after upstream's templates.

use serde_json::{Value, json};

/// A node of 4 cores, 32 GiB and 110 pods.
pub const CAPACITY: &str = "cpu=4,memory=32Gi,pods=110";
/// The one node that has room for everybody.
pub const NAMED_CAPACITY: &str = "cpu=90000,memory=320000Gi,pods=100000";
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of the namespaces that pods select.
pub const TEAM: (&str, &str) = ("team", "devops");
/// The simulators, and the node of the second.
pub const SIMULATOR: &str = "sim";
pub const NAMED_SIMULATOR: &str = "sim-named";
pub const NAMED_NODE: &str = "sim-named-0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    Default,
    /// Asks for nothing.
    Light,
    /// More than a node has.
    Large,
    Gated,
    NodeAffinity,
    /// For one node by its name, as a DaemonSet's.
    Daemon,
    LowPriority,
    HighPriority,
    Spread,
    PreferredSpread,
    Affinity,
    AntiAffinity,
    PreferredAffinity,
    PreferredAntiAffinity,
    AffinityNs,
    AntiAffinityNs,
    PreferredAffinityNs,
    PreferredAntiAffinityNs,
}

impl Template {
    /// The field of the pod's spec that makes it what it is, where that is not in every build.
    pub fn needs(self) -> Option<&'static str> {
        use Template::*;
        match self {
            Gated => Some("schedulingGates"),
            Spread | PreferredSpread => Some("topologySpreadConstraints"),
            Affinity | PreferredAffinity | AffinityNs | PreferredAffinityNs => {
                Some("affinity.podAffinity")
            }
            AntiAffinity | PreferredAntiAffinity | AntiAffinityNs | PreferredAntiAffinityNs => {
                Some("affinity.podAntiAffinity")
            }
            _ => None,
        }
    }

    /// The class of the pods' priority, where they have one.
    pub fn priority(self) -> i32 {
        match self {
            Template::HighPriority | Template::Large => 10,
            _ => 0,
        }
    }

    fn color(self) -> Option<&'static str> {
        use Template::*;
        match self {
            Spread | PreferredSpread | Affinity | AffinityNs => Some("blue"),
            AntiAffinity | AntiAffinityNs => Some("green"),
            PreferredAffinity | PreferredAffinityNs => Some("red"),
            PreferredAntiAffinity | PreferredAntiAffinityNs => Some("yellow"),
            _ => None,
        }
    }

    /// The pod's manifest.
    pub fn pod(self, namespace: &str, name: &str) -> Value {
        let (cpu, memory) = match self {
            Template::Light | Template::Gated | Template::Daemon => ("", ""),
            Template::LowPriority => ("900m", "500Mi"),
            Template::HighPriority => ("3000m", "500Mi"),
            Template::Large => ("9000m", "500Mi"),
            _ => ("100m", "500Mi"),
        };
        let mut container = json!({"name": "pause", "image": "pause:v1"});
        if !cpu.is_empty() {
            container["resources"] = json!({"requests": {"cpu": cpu, "memory": memory}});
        }
        let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
        if let Some(affinity) = self.affinity() {
            spec["affinity"] = affinity;
        }
        if let Some(constraints) = self.spread() {
            spec["topologySpreadConstraints"] = constraints;
        }
        if self.priority() > 0 {
            spec["priorityClassName"] = json!("bench-high");
        }
        if self == Template::Gated {
            spec["schedulingGates"] = json!([{"name": "bench"}]);
        }
        let labels = self.color().map(|color| json!({"color": color})).unwrap_or_else(|| json!({}));
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec})
    }

    fn spread(self) -> Option<Value> {
        let when = match self {
            Template::Spread => "DoNotSchedule",
            Template::PreferredSpread => "ScheduleAnyway",
            _ => return None,
        };
        Some(json!([{"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"color": self.color()}}}]))
    }

    fn affinity(self) -> Option<Value> {
        use Template::*;
        let node = |term: Value| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [term]}}})
        };
        match self {
            NodeAffinity => {
                let values = ["zone-0", "zone-1"];
                let zone = json!({"key": ZONE, "operator": "In", "values": values});
                return Some(node(json!({"matchExpressions": [zone]})));
            }
            Daemon => {
                let field =
                    json!({"key": "metadata.name", "operator": "In", "values": [NAMED_NODE]});
                return Some(node(json!({"matchFields": [field]})));
            }
            _ => {}
        }
        let by_label = matches!(
            self,
            AffinityNs | AntiAffinityNs | PreferredAffinityNs | PreferredAntiAffinityNs
        );
        let key = if matches!(self, Affinity | AffinityNs) { ZONE } else { HOSTNAME };
        let mut term = json!({"topologyKey": key,
            "labelSelector": {"matchLabels": {"color": self.color()?}}});
        match by_label {
            true => term["namespaceSelector"] = json!({"matchLabels": {TEAM.0: TEAM.1}}),
            false => term["namespaces"] = json!(["sched-1", "sched-0"]),
        }
        let (kind, preferred) = match self {
            Affinity | AffinityNs => ("podAffinity", false),
            AntiAffinity | AntiAffinityNs => ("podAntiAffinity", false),
            PreferredAffinity | PreferredAffinityNs => ("podAffinity", true),
            PreferredAntiAffinity | PreferredAntiAffinityNs => ("podAntiAffinity", true),
            _ => return None,
        };
        Some(match preferred {
            true => json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 1, "podAffinityTerm": term}]}}),
            false => json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}),
        })
    }
}

/// A node as it registers.
pub fn node(name: &str, zone: Option<usize>, capacity: &str) -> Value {
    let amounts = capacity.split(',').filter_map(|part| part.split_once('='));
    let amounts: serde_json::Map<String, Value> =
        amounts.map(|(name, amount)| (name.to_string(), amount.into())).collect();
    let mut labels = json!({HOSTNAME: name});
    if let Some(zone) = zone {
        labels[ZONE] = format!("zone-{zone}").into();
    }
    json!({"metadata": {"name": name, "labels": labels}, "spec": {},
        "status": {"allocatable": amounts}})
}
