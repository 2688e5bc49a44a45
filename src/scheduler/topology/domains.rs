//! The domains that a label of nodes divides them into: one of each value.

use std::collections::HashMap;
use std::sync::Arc;

use crate::scheduler::snapshot::NodeInfo;

/// The domain of a node that has not the label.
pub const NONE: u32 = u32::MAX;

/// The domains of one topology key, over the nodes as they were when this was made.
#[derive(Debug, Default)]
pub struct Domains {
    /// The domain of each node, by its index; [`NONE`] without the label.
    pub of_node: Vec<u32>,
    /// The indexes of each domain's nodes.
    pub members: Vec<Vec<u32>>,
}

impl Domains {
    fn of(key: &str, nodes: &[NodeInfo]) -> Domains {
        let mut domains = Domains::default();
        let mut known: HashMap<&str, u32> = HashMap::new();
        for (index, node) in (0..).zip(nodes) {
            let Some(value) = node.labels.get(key) else {
                domains.of_node.push(NONE);
                continue;
            };
            let domain = *known.entry(value).or_insert_with(|| {
                domains.members.push(Vec::new());
                u32::try_from(domains.members.len() - 1).unwrap_or(NONE)
            });
            domains.of_node.push(domain);
            domains.members[domain as usize].push(index);
        }
        domains
    }
}

/// The domains of the keys that were asked for, until nodes change.
#[derive(Clone, Default)]
pub struct Keys {
    generation: u64,
    known: HashMap<String, Arc<Domains>>,
}

impl Keys {
    /// The domains of a key; `generation` changes with the nodes' labels.
    pub fn get(&mut self, key: &str, generation: u64, nodes: &[NodeInfo]) -> Arc<Domains> {
        if self.generation != generation {
            self.generation = generation;
            self.known.clear();
        }
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let domains = Arc::new(Domains::of(key, nodes));
        self.known.insert(key.into(), domains.clone());
        domains
    }
}
