//! What pods use, as a node tells the API server over its tunnel (`/usage`), which makes the
//! objects of metrics.k8s.io of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The pods of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeUsage {
    pub at: Timestamp,
    /// Of all pods together.
    pub total: Amounts,
    pub pods: Vec<PodUsage>,
}

/// The containers of one pod that run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub at: Timestamp,
    pub containers: Vec<ContainerUsage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerUsage {
    pub name: String,
    pub amounts: Amounts,
}

/// Rates are means over the last window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// Thousand-millionths of a core.
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
    pub window_millis: u64,
    /// Requests that an HTTP handler got, in thousandths of one a second; `None` for what is none.
    #[serde(default)]
    pub requests_milli: Option<u64>,
}
