//! What a full disk asks for: while less is free than the threshold, one pod after the other ends,
//! that which wrote most beyond what it asked for first. Which one is decided by a pure function.
//! Source: k8s.io/kubernetes pkg/kubelet/eviction (rankDiskPressureFunc, evictionMessage).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Shared;
use super::machine::{self, Room};
use super::pod_state::spec;
use super::termination;
use crate::api::kinds::static_pod;
use crate::api::quantity::Quantity;
use crate::volumes::{self, Host, empty_dir};

/// Pods of this priority and above are never evicted (system-node-critical and its like).
const CRITICAL: i32 = 2_000_000_000;
const RESOURCE: &str = "ephemeral-storage";

/// Whether the node never evicts the pod (kubelet's IsCriticalPod): the folder of a static pod
/// would bring it back.
pub fn is_critical(pod: &Pod) -> bool {
    static_pod::is_static(pod) || spec(pod).priority.unwrap_or_default() >= CRITICAL
}

/// What a pod wrote and what it asked for.
struct Usage {
    used_bytes: u64,
    requested_bytes: u64,
    priority: i32,
    is_critical: bool,
}

/// Which of the pods is to end if the disk is low, and what it is told (blocking). They are asked
/// for only then.
pub fn look<T, I: Iterator<Item = (Arc<Pod>, T)>>(
    node: &Shared,
    pods: impl FnOnce() -> I,
) -> Option<(T, String)> {
    let room = machine::room(&node.options.data_dir, &node.options.eviction)?;
    if !room.is_low() {
        return None;
    }
    let (mut all, mut usages) = (Vec::new(), Vec::new());
    for (pod, one) in pods() {
        usages.push(usage(node, &pod));
        all.push(one);
    }
    let at = worst(&usages)?;
    Some((all.swap_remove(at), message(room, &usages[at])))
}

/// Kubelet's words.
fn message(room: Room, usage: &Usage) -> String {
    let bytes = |bytes: u64| Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    format!(
        "The node was low on resource: {RESOURCE}. Threshold quantity: {}, available: {}. The pod was \
         using {}, request is {}, has larger consumption of {RESOURCE}. ",
        bytes(room.threshold_bytes),
        bytes(room.free_bytes),
        bytes(usage.used_bytes),
        bytes(usage.requested_bytes)
    )
}

/// Those beyond their request come first, then those of low priority, then those that exceed it by
/// most. One that wrote nothing is not ended: it would free nothing.
fn worst(usages: &[Usage]) -> Option<usize> {
    let candidates = usages.iter().enumerate();
    let candidates = candidates.filter(|(_, one)| one.used_bytes > 0 && !one.is_critical);
    let rank = |one: &Usage| {
        let beyond = i128::from(one.used_bytes) - i128::from(one.requested_bytes);
        (beyond > 0, -i64::from(one.priority), beyond)
    };
    candidates.max_by_key(|(_, one)| rank(one)).map(|(at, _)| at)
}

fn usage(node: &Shared, pod: &Pod) -> Usage {
    let pod_dir = node.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let logs = node.pod_log_dir(pod);
    let used_bytes = scratch_dirs(&pod_dir, pod, &node.facts.host)
        .iter()
        .chain([&logs])
        .map(|dir| empty_dir::usage_bytes(dir))
        .fold(0, u64::saturating_add);
    let requests = spec(pod).containers.iter().filter_map(|container| {
        let amount = container.resources.as_ref()?.requests.as_ref()?.get(RESOURCE)?;
        u64::try_from(Quantity::parse(&amount.0).ok()?.value()).ok()
    });
    let priority = spec(pod).priority.unwrap_or_default();
    let is_critical = is_critical(pod);
    Usage { used_bytes, requested_bytes: requests.sum(), priority, is_critical }
}

/// The directories of a pod on disk that go with it and that it writes to.
fn scratch_dirs(pod_dir: &Path, pod: &Pod, host: &Host) -> Vec<PathBuf> {
    let list = spec(pod).volumes.iter().flatten();
    let scratch = list.filter(|volume| {
        (empty_dir::KIND.matches)(volume) && !empty_dir::is_in_memory(volume, host)
    });
    let volumes = scratch.filter_map(|volume| volumes::volume_dir(pod_dir, volume, host).ok());
    let containers = spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers);
    volumes.chain(containers.map(|one| termination::dir(pod_dir, &one.name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(used_bytes: u64, requested_bytes: u64, priority: i32) -> Usage {
        Usage { used_bytes, requested_bytes, priority, is_critical: priority >= CRITICAL }
    }

    #[test]
    fn who_wrote_most_beyond_its_request_goes_first() {
        assert_eq!(worst(&[]), None);
        assert_eq!(worst(&[usage(0, 0, 0), usage(9, 0, CRITICAL)]), None);
        assert_eq!(worst(&[usage(5, 0, 0), usage(9, 0, 0), usage(20, 30, 0)]), Some(1));
        assert_eq!(worst(&[usage(5, 0, -1), usage(9, 0, 0)]), Some(0), "the lower priority");
        assert_eq!(worst(&[usage(5, 9, 0), usage(20, 30, 0)]), Some(0));
        let room = Room { free_bytes: 1 << 20, threshold_bytes: 1 << 30 };
        assert_eq!(
            message(room, &usage(3 << 20, 0, 0)),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 1Mi. \
             The pod was using 3Mi, request is 0, has larger consumption of ephemeral-storage. "
        );
    }
}
