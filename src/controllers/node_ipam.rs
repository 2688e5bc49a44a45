//! Node IPAM: each node gets a block of the cluster's pod addresses, no two the same one. There is
//! one key for all nodes, so that two blocks are never handed out from one view.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

use super::ownership::name;
use super::{Controller, Limits, Options, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::api::simulated::simulator_of;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// The one key.
const ALL_NODES: &str = "nodes";

pub struct NodeIpamController {
    blocks: Option<Blocks>,
}

/// A range of addresses cut into blocks of one size.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    first: u128,
    /// 32 or 128.
    width: u8,
    range_prefix: u8,
    block_prefix: u8,
}

impl NodeIpamController {
    /// Hands out nothing if the range cannot be read or has no room for a block; that is told once.
    pub fn new(options: &Options) -> NodeIpamController {
        let blocks = Blocks::parse(&options.cluster_cidr, options.node_cidr_mask);
        if blocks.is_none() {
            let (range, mask) = (&options.cluster_cidr, options.node_cidr_mask);
            tracing::error!(range, mask, "no blocks for nodes can be cut from this range");
        }
        NodeIpamController { blocks }
    }
}

impl Controller for NodeIpamController {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        let (_, new) = change.typed::<Node>();
        let concerns = change.resource == Gvr::of::<Node>() && new.is_none_or(wants_block);
        concerns.then(|| ObjectKey::new("", ALL_NODES)).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Node>()]
    }

    fn reconcile(&self, view: &View, _key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(blocks) = self.blocks else { return plan };
        let used = view.all::<Node>().filter_map(|node| blocks.index(cidr(node)?));
        let used: HashSet<u128> = used.collect();
        let mut free = (0..blocks.count()).filter(|index| !used.contains(index));
        for node in view.all::<Node>().filter(|node| wants_block(node)) {
            let Some(index) = free.next() else {
                let text = format!("No block is left for node {}", name(&node.metadata));
                plan.notices.push(Notice::warning(&**node, "CIDRNotAvailable", text));
                continue;
            };
            let block = blocks.block(index);
            let mut changed = Node::clone(node);
            let spec = changed.spec.get_or_insert_default();
            spec.pod_cidr = Some(block.clone());
            spec.pod_cidrs = Some(vec![block]);
            plan.update(&changed);
        }
        plan
    }

    fn limits(&self) -> Limits {
        Limits { workers: 1, ..Limits::default() }
    }
}

/// Nobody listens at the addresses of simulated nodes' pods, which have a range of their own.
fn wants_block(node: &Node) -> bool {
    cidr(node).is_none() && simulator_of(node.metadata.labels.as_ref()).is_none()
}

fn cidr(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty())
}

impl Blocks {
    fn parse(range: &str, block_prefix: u8) -> Option<Blocks> {
        let (first, width, range_prefix) = parse_cidr(range)?;
        let fits = range_prefix <= block_prefix && block_prefix <= width;
        fits.then_some(Blocks { first, width, range_prefix, block_prefix })
    }

    fn count(&self) -> u128 {
        1u128.checked_shl(u32::from(self.block_prefix - self.range_prefix)).unwrap_or(u128::MAX)
    }

    fn block(&self, index: u128) -> String {
        let shift = u32::from(self.width - self.block_prefix);
        let address = self.first + index.checked_shl(shift).unwrap_or(0);
        let address = match u32::try_from(address) {
            Ok(v4) if self.width == 32 => IpAddr::V4(Ipv4Addr::from(v4)),
            _ => IpAddr::V6(Ipv6Addr::from(address)),
        };
        format!("{address}/{}", self.block_prefix)
    }

    /// The block that holds a CIDR's first address; `None` outside the range.
    fn index(&self, cidr: &str) -> Option<u128> {
        let (first, width, _) = parse_cidr(cidr)?;
        let offset = first.checked_sub(self.first).filter(|_| width == self.width)?;
        let shift = u32::from(self.width - self.block_prefix);
        let index = offset.checked_shr(shift).unwrap_or(0);
        (index < self.count()).then_some(index)
    }
}

/// First address, width in bits, prefix length.
fn parse_cidr(text: &str) -> Option<(u128, u8, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix: u8 = prefix.parse().ok()?;
    let (address, width) = match address.parse().ok()? {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    if prefix > width {
        return None;
    }
    let mask = u128::MAX.checked_shl(u32::from(width - prefix)).unwrap_or(0);
    Some((address & mask, width, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other_and_end() {
        let blocks = Blocks::parse("10.0.0.0/22", 24).unwrap();
        assert_eq!(blocks.count(), 4);
        assert_eq!(blocks.block(3), "10.0.3.0/24");
        assert_eq!(blocks.index("10.0.3.0/24"), Some(3));
        assert_eq!(blocks.index("10.0.4.0/24"), None);
        assert!(Blocks::parse("10.0.0.0/24", 20).is_none());
        assert_eq!(Blocks::parse("fd00::/48", 64).unwrap().block(1), "fd00:0:0:1::/64");
    }
}
