//! The node's pod range on the disk, so that static pods have addresses where an agent starts while
//! the API is away. Only nodes with static pods keep it.

use std::path::PathBuf;

use crate::node::Shared;

/// In the data directory: `spec.podCIDR` as the API told it last.
const FILE: &str = "pod-range";

fn path(node: &Shared) -> PathBuf {
    node.options.data_dir.join(FILE)
}

/// Keeps the range for the next start.
pub fn remember(node: &Shared, cidr: &str) {
    if node.options.static_pods.is_none() {
        return;
    }
    let (path, new) = (path(node), node.options.data_dir.join(format!("{FILE}.new")));
    let written = std::fs::write(&new, cidr).and_then(|()| std::fs::rename(&new, &path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the pod range was not kept");
    }
}

/// Takes the range that was kept, while the API tells none.
pub fn recall(node: &Shared) {
    if node.ips.is_ready() {
        return;
    }
    let Ok(cidr) = std::fs::read_to_string(path(node)) else { return };
    match node.ips.set_range(cidr.trim()) {
        Ok(_) => tracing::info!(node = node.options.name, cidr, "pod range, as it was"),
        Err(error) => tracing::warn!(node = node.options.name, %error, "the kept pod range"),
    }
}
