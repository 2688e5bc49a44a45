//! What the scheduler thinks of one pod, node by node: the answer of `pods/why`, which is ours.
//! Plain data between the scheduler that makes it, the API server that passes it on, and people.

use serde::{Deserialize, Serialize};

pub const API_VERSION: &str = "wasmfleet.dev/v1";
pub const KIND: &str = "SchedulingExplanation";
/// Nodes that an answer tells of one by one where nobody says how many, and at most.
pub const DEFAULT_NODES: usize = 500;
pub const MAX_NODES: usize = 5000;

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// What is true of the pod: that it waits, or why nobody places it now.
    pub state: String,
    /// Why nobody takes it, in the words of a FailedScheduling event; empty where somebody does.
    pub message: String,
    /// How many nodes there are, and how many of them would take it.
    pub nodes_total: usize,
    pub nodes_feasible: usize,
    /// Why the others do not, over all of them, the most frequent first.
    pub refusals: Vec<Count>,
    /// Those that take it, the best first, then the others by name; not all of many.
    pub nodes: Vec<Verdict>,
    /// What would help, in sentences.
    pub help: Vec<String>,
}

/// How many nodes a filter refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub filter: String,
    pub reason: String,
    pub nodes: usize,
}

/// What becomes of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub node: String,
    /// The first filter that refuses it, and all that this one finds wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// The sum of the scores, each with its weight.
    #[serde(default)]
    pub total: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Score>,
}

/// What a plugin gives a node: a score of at most 10,000, and what it weighs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    pub plugin: String,
    pub score: i64,
    pub weight: i64,
}
