//! NodeMetrics and PodMetrics (metrics.k8s.io/v1beta1): what is used now, as metrics-server tells
//! it. Never stored: `apiserver/measured.rs` asks the nodes at each read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::quantity::Quantity as Amount;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule};
use crate::api::table::{self, Column};

/// Requests a second that a container got, beside the resources: told of HTTP handlers alone. The
/// name is that under which autoscalers know it, as a metric of pods.
pub const REQUESTS: &str = "http_requests_per_second";

/// The amounts that are told: `cpu`, `memory`, and [`REQUESTS`] of HTTP handlers.
pub type Usage = BTreeMap<String, Quantity>;

/// What the pods of a node use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics")]
pub struct NodeMetrics {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// When the window ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
    /// The time over which rates are means, e.g. 15s.
    #[serde(default)]
    pub window: String,
    /// What is used, by resource: cpu and memory.
    #[serde(default)]
    pub usage: Usage,
}

/// What the containers of a pod use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics")]
pub struct PodMetrics {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// When the window ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
    /// The time over which rates are means, e.g. 15s.
    #[serde(default)]
    pub window: String,
    /// The containers that run.
    #[serde(default)]
    pub containers: Vec<ContainerMetrics>,
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics")]
pub struct ContainerMetrics {
    /// The container's name.
    #[serde(default)]
    pub name: String,
    /// What is used, by resource: cpu and memory, and http_requests_per_second of HTTP handlers.
    #[serde(default)]
    pub usage: Usage,
}

macro_rules! resource {
    ($type:ident, $plural:literal, $list:literal, $scope:ident) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
            const GROUP: &'static str = "metrics.k8s.io";
            const KIND: &'static str = stringify!($type);
            const VERSION: &'static str = "v1beta1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::$scope;
        }

        impl k8s_openapi::ListableResource for $type {
            const LIST_KIND: &'static str = $list;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(NodeMetrics, "nodes", "NodeMetricsList", ClusterResourceScope);
resource!(PodMetrics, "pods", "PodMetricsList", NamespaceResourceScope);

const META: KindMeta =
    KindMeta { computed: true, measured: true, name_rule: NameRule::PathSegment, ..DEFAULT_META };

/// As metrics-server has them (pkg/api/table.go).
const COLUMNS: &[Column] = &[
    table::NAME,
    Column { format: "quantity", ..Column::new("cpu", "string", "Processor time that is used.") },
    Column { format: "quantity", ..Column::new("memory", "string", "Memory that is used.") },
    Column { format: "duration", ..Column::new("Window", "string", "What rates are means over.") },
];

impl Kind for NodeMetrics {
    const META: KindMeta = KindMeta { singular: "nodemetrics", ..META };

    fn columns() -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, _: Timestamp) -> Vec<Value> {
        row(&self.metadata, [&self.usage].into_iter(), &self.window)
    }
}

impl Kind for PodMetrics {
    const META: KindMeta = KindMeta { singular: "podmetrics", ..META };

    fn columns() -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, _: Timestamp) -> Vec<Value> {
        row(&self.metadata, self.containers.iter().map(|one| &one.usage), &self.window)
    }
}

fn row<'a>(
    metadata: &ObjectMeta,
    usages: impl Iterator<Item = &'a Usage> + Clone,
    window: &str,
) -> Vec<Value> {
    let parsed = |resource: &'static str| {
        let amounts = usages.clone().filter_map(move |usage| usage.get(resource));
        amounts.filter_map(|amount| Amount::parse(&amount.0).ok())
    };
    let milli = parsed("cpu").map(|amount| amount.milli()).fold(0_i64, i64::saturating_add);
    let bytes = parsed("memory").map(|amount| amount.value()).fold(0_i64, i64::saturating_add);
    vec![
        table::name(metadata),
        Amount::from_milli(milli).to_string().into(),
        Amount::from_bytes(bytes).to_string().into(),
        window.into(),
    ]
}
