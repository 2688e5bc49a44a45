//! Simulated nodes, as all sides know them: their names, the label that tells them from others, and
//! the one Lease by which they are alive.
//!
//! A simulator is a process that stands for many nodes. Its name is `sim` or begins with `sim-`, its
//! nodes are `<simulator>-0`, `<simulator>-1`…; machines cannot join under such names, so that a name
//! alone says whose credentials write the Node. All of a simulator's nodes live and die with it:
//! they share the Lease that has its name.

use std::collections::BTreeMap;

/// Says which simulator stands for a Node.
pub const SIMULATOR_LABEL: &str = "wasmfleet.dev/simulator";
/// The name of a simulator where nobody gives one; others begin with it and a dash.
pub const SIMULATOR: &str = "sim";
/// The most nodes of one simulator.
pub const MAX_NODES: u32 = 100_000;
/// The longest name of a simulator, so that those of its nodes fit a label's value.
const MAX_NAME: usize = 56;

/// Whether a name is one that only simulators and their nodes may have.
pub fn is_reserved(name: &str) -> bool {
    name.strip_prefix(SIMULATOR).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether a simulator may have this name: reserved, a DNS label, and short.
pub fn is_simulator_name(name: &str) -> bool {
    is_reserved(name) && name.len() <= MAX_NAME && super::names::is_dns1123_label(name).is_empty()
}

/// The name of a simulator's node.
pub fn node_name(simulator: &str, index: u32) -> String {
    format!("{simulator}-{index}")
}

/// The index of a simulator's node; `None` where the node is not one of its nodes.
pub fn index_of(simulator: &str, node: &str) -> Option<u32> {
    let digits = node.strip_prefix(simulator)?.strip_prefix('-')?;
    let index: u32 = digits.parse().ok().filter(|index| *index < MAX_NODES)?;
    // One name for each index: neither `+1` nor `01`.
    (is_simulator_name(simulator) && index.to_string() == digits).then_some(index)
}

/// The simulator that stands for a Node with these labels.
pub fn simulator_of(labels: Option<&BTreeMap<String, String>>) -> Option<&str> {
    labels?.get(SIMULATOR_LABEL).map(String::as_str)
}

/// The name of the Lease by which a Node is alive: its own, or its simulator's.
pub fn lease_name<'a>(node: &'a str, labels: Option<&'a BTreeMap<String, String>>) -> &'a str {
    simulator_of(labels).unwrap_or(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_a_node_is() {
        assert_eq!(index_of("sim", "sim-7"), Some(7));
        assert_eq!(index_of("sim-west", &node_name("sim-west", 0)), Some(0));
        for node in ["sim", "sim-", "sim-07", "sim-+7", "sim-west-1", "simx-1", "sim-100000"] {
            assert_eq!(index_of("sim", node), None, "{node}");
        }
        assert_eq!(index_of("node", "node-1"), None, "a machine is no simulator");
        assert!(is_reserved("sim-box") && !is_reserved("simple"));
        assert!(!is_simulator_name("sim-A") && !is_simulator_name(&"sim-".repeat(20)));
    }
}
