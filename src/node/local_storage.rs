//! Looks at what pods write, and ends those beyond their limits: of an emptyDir, of ephemeral storage,
//! and of memory where volumes are in it. One task looks, one pod after the other, and rests nine
//! times as long as it looked. Which pod ends is decided by a pure function.
//!
//! The system calls of guests are not in between, so a pod can be over its limit until the next look.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/eviction/eviction_manager.go (localStorageEviction),
//! pkg/volume/emptydir/empty_dir.go (calculateEmptyDirMemorySize).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::Shared;
use super::eviction;
use super::pod_events::Event;
use super::pod_state::spec;
use super::pods::PodEntry;
use super::termination;
use crate::api::quantity::Quantity;
use crate::client::event::Notice;
use crate::volumes::{self, empty_dir};

/// Between two looks at what is on disk (kubelet: 10 s).
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks at volumes in memory: what is written there, the machine has to hold.
const MEMORY_PERIOD: Duration = Duration::from_secs(2);
/// After a look, so many times as long as it took nothing is looked at.
const REST: u32 = 9;
const STORAGE: &str = "ephemeral-storage";
const MEMORY: &str = "memory";

/// What a pod uses.
#[derive(Default)]
struct Used {
    /// Bytes of the volumes that were looked at.
    volumes: Vec<VolumeUse>,
    /// Bytes of each container's logs, and of what is beside its termination message.
    logs: BTreeMap<String, u64>,
    /// Bytes of what its containers hold in memory.
    memory_bytes: u64,
}

struct VolumeUse {
    name: String,
    /// What it was written as, and in bytes.
    limit: Option<(String, u64)>,
    in_memory: bool,
    used_bytes: u64,
}

/// Looks again and again.
pub async fn keep_looking(node: Arc<Shared>) {
    let mut told: BTreeSet<String> = BTreeSet::new();
    let (mut rest, mut disk_at) = (Duration::ZERO, node.clock.now());
    loop {
        let watched = node.pods.all().into_iter().filter(|(_, entry)| entry.is_watched());
        let watched: Vec<_> = watched.map(|(_, entry)| entry).collect();
        let has_memory = running(&watched).any(|one| has_memory_volumes(&node, &one.pod));
        let period = if has_memory { MEMORY_PERIOD } else { PERIOD };
        node.clock.sleep(period.max(rest)).await;

        let began = node.clock.now();
        let passed = Duration::try_from(began.duration_since(disk_at)).unwrap_or(PERIOD);
        // Both periods end at the same time now and then.
        let is_disk = passed + MEMORY_PERIOD / 2 >= PERIOD;
        if is_disk {
            disk_at = began;
        }
        let all = node.pods.all();
        told.retain(|uid| all.iter().any(|(_, entry)| entry.uid == *uid));
        let entries = all.into_iter().map(|(_, entry)| entry);
        let entries: Vec<_> = entries.filter(|entry| !told.contains(&entry.uid)).collect();
        let shared = node.clone();
        let looked = tokio::task::spawn_blocking(move || look(&shared, &entries, is_disk));
        let Ok(ends) = looked.await else { continue };
        for (Running { pod, entry }, message) in ends {
            told.insert(entry.uid.clone());
            node.tell(Notice::warning(&*pod, "Evicted", message.clone()));
            entry.inbox.event(Event::Evicted { reason: "Evicted".into(), message });
        }
        let took = node.clock.now().duration_since(began);
        rest = Duration::try_from(took).unwrap_or(Duration::ZERO) * REST;
    }
}

/// Whether what a pod writes is to be looked at while the disk has room: a limit of its own, or the
/// machine's memory.
pub(super) fn is_watched(pod: &Pod) -> bool {
    let mut volumes = spec(pod).volumes.iter().flatten();
    volumes.any(|one| empty_dir::wants_memory(one) || empty_dir::size_limit(one).is_some())
        || containers(pod).any(|container| limit(container, STORAGE).is_some())
}

/// A pod that may write.
struct Running {
    pod: Arc<Pod>,
    entry: Arc<PodEntry>,
}

/// Those of the entries, decoded one after the other.
fn running(entries: &[Arc<PodEntry>]) -> impl Iterator<Item = Running> {
    let pods = entries.iter().map(|entry| Running { pod: entry.pod(), entry: entry.clone() });
    pods.filter(|one| {
        let phase = one.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    })
}

fn has_memory_volumes(node: &Shared, pod: &Pod) -> bool {
    let mut list = spec(pod).volumes.iter().flatten();
    list.any(|volume| empty_dir::is_in_memory(volume, &node.facts.host))
}

/// The pods to end, and what they are told (blocking).
fn look(node: &Shared, entries: &[Arc<PodEntry>], is_disk: bool) -> Vec<(Running, String)> {
    let mut ends = Vec::new();
    let watched: Vec<_> = entries.iter().filter(|entry| entry.is_watched()).cloned().collect();
    for one in running(&watched) {
        if eviction::is_critical(&one.pod) {
            continue;
        }
        let used = used(node, &one.pod, &one.entry, is_disk);
        let allocatable = node.facts.allocatable.memory_bytes.try_into().unwrap_or(u64::MAX);
        if let Some(message) = excess(&one.pod, &used, allocatable) {
            ends.push((one, message));
        }
    }
    if is_disk && ends.is_empty() {
        let worst = eviction::look(node, || running(entries).map(|one| (one.pod.clone(), one)));
        ends.extend(worst);
    }
    ends
}

/// What limits need to know of a pod; what is on disk only if asked for.
fn used(node: &Shared, pod: &Pod, entry: &PodEntry, is_disk: bool) -> Used {
    let mut used = Used::default();
    let is_limited = containers(pod).any(|container| limit(container, STORAGE).is_some());
    let pod_dir = node.pod_dir(&entry.uid);
    for volume in spec(pod).volumes.iter().flatten() {
        let limit = empty_dir::size_limit(volume);
        let in_memory = empty_dir::is_in_memory(volume, &node.facts.host);
        let is_scratch = (empty_dir::KIND.matches)(volume);
        if !in_memory && !(is_disk && is_scratch && (limit.is_some() || is_limited)) {
            continue;
        }
        let Ok(dir) = volumes::volume_dir(&pod_dir, volume, &node.facts.host) else { continue };
        let used_bytes = empty_dir::usage_bytes(&dir);
        used.volumes.push(VolumeUse { name: volume.name.clone(), limit, in_memory, used_bytes });
    }
    if used.volumes.iter().any(|volume| volume.in_memory) {
        let running = entry.all_running();
        let held = running.iter().filter_map(|(_, one)| one.container.upgrade());
        used.memory_bytes = held.map(|container| container.usage().memory_bytes).sum();
    }
    if is_disk && is_limited {
        for container in containers(pod) {
            let dir = node.container_log_dir(pod, &container.name);
            let beside = termination::dir(&pod_dir, &container.name);
            let bytes = empty_dir::usage_bytes(&dir);
            let bytes = bytes.saturating_add(empty_dir::usage_bytes(&beside));
            used.logs.insert(container.name.clone(), bytes);
        }
    }
    used
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers)
}

/// What a pod beyond a limit is told, in kubelet's words.
fn excess(pod: &Pod, used: &Used, allocatable_bytes: u64) -> Option<String> {
    let over_volume = |name: &str, limit: &str| {
        format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ")
    };
    let over_size = used.volumes.iter().find_map(|volume| {
        let (text, limit) = volume.limit.as_ref()?;
        (volume.used_bytes > *limit).then(|| over_volume(&volume.name, text))
    });
    if over_size.is_some() {
        return over_size;
    }
    // What upstream gives a tmpfs as its size, and what it holds counts as the containers' memory.
    let pod_memory = declared_by_all(pod, MEMORY).then(|| pod_limit(pod, MEMORY)).flatten();
    let most = pod_memory.unwrap_or(allocatable_bytes).min(allocatable_bytes);
    let in_memory = || used.volumes.iter().filter(|volume| volume.in_memory);
    if let Some(volume) = in_memory().find(|volume| volume.used_bytes > most) {
        return Some(over_volume(&volume.name, &bytes_text(most)));
    }
    let sum = in_memory().map(|volume| volume.used_bytes).fold(0, u64::saturating_add);
    if let Some(limit) = pod_memory.filter(|limit| sum.saturating_add(used.memory_bytes) > *limit) {
        let limit = bytes_text(limit);
        return Some(format!(
            "Pod memory usage exceeds the total limit of containers {limit}: containers hold {}, \
             volumes in memory {}. ",
            bytes_text(used.memory_bytes),
            bytes_text(sum)
        ));
    }
    over_storage(pod, used)
}

fn over_storage(pod: &Pod, used: &Used) -> Option<String> {
    let on_disk = used.volumes.iter().filter(|volume| !volume.in_memory);
    let on_disk = on_disk.map(|volume| volume.used_bytes);
    let total = on_disk.chain(used.logs.values().copied()).fold(0, u64::saturating_add);
    if let Some(limit) = pod_limit(pod, STORAGE).filter(|limit| total > *limit) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            bytes_text(limit)
        ));
    }
    containers(pod).find_map(|container| {
        let limit = limit(container, STORAGE)?;
        let name = &container.name;
        let is_over = used.logs.get(name).is_some_and(|bytes| *bytes > limit);
        let limit = bytes_text(limit);
        is_over.then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ")
        })
    })
}

fn bytes_text(bytes: u64) -> String {
    Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).to_string()
}

/// A container's limit, in bytes.
fn limit(container: &Container, resource: &str) -> Option<u64> {
    let amount = container.resources.as_ref()?.limits.as_ref()?.get(resource)?;
    let bytes = Quantity::parse(&amount.0).ok()?.value();
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

fn declared_by_all(pod: &Pod, resource: &str) -> bool {
    containers(pod).all(|container| limit(container, resource).is_some())
}

/// The limit of a whole pod: of the containers that run side by side, or of an init container and
/// the sidecars before it, whichever is more (component-helpers/resource, AggregateContainerLimits).
fn pod_limit(pod: &Pod, resource: &str) -> Option<u64> {
    let of = |container: &Container| limit(container, resource).unwrap_or(0);
    let mains: u64 = spec(pod).containers.iter().map(of).sum();
    let (mut sidecars, mut most_init) = (0, 0);
    for container in spec(pod).init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += of(container);
        } else {
            most_init = most_init.max(sidecars + of(container));
        }
    }
    Some((mains + sidecars).max(most_init)).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: Value, inits: Value) -> Pod {
        let object = json!({"metadata": {"name": "a"},
            "spec": {"containers": containers, "initContainers": inits}});
        serde_json::from_value(object).unwrap()
    }

    fn container(name: &str, limits: Value) -> Value {
        json!({"name": name, "resources": {"limits": limits}})
    }

    fn volume(name: &str, in_memory: bool, used_bytes: u64, limit: Option<u64>) -> VolumeUse {
        let limit = limit.map(|limit| (bytes_text(limit), limit));
        VolumeUse { name: name.into(), limit, in_memory, used_bytes }
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn volumes_are_held_to_their_limits() {
        let free = pod(json!([container("a", json!({}))]), json!([]));
        let used = |volumes| Used { volumes, ..Used::default() };
        let over = |pod: &Pod, volumes| excess(pod, &used(volumes), GIB);
        assert_eq!(
            over(&free, vec![volume("v", false, 5, Some(5)), volume("w", false, 9, None)]),
            None
        );
        assert_eq!(
            over(&free, vec![volume("v", false, 5, Some(5)), volume("w", true, 2049, Some(2048))]),
            Some("Usage of EmptyDir volume \"w\" exceeds the limit \"2Ki\". ".into())
        );
        // Without a limit: the pod's memory, or the node's.
        let text = |limit: &str| {
            Some(format!("Usage of EmptyDir volume \"v\" exceeds the limit \"{limit}\". "))
        };
        assert_eq!(over(&free, vec![volume("v", true, GIB, None)]), None);
        assert_eq!(over(&free, vec![volume("v", true, GIB + 1, None)]), text("1Gi"));
        let bound = pod(json!([container("a", json!({"memory": "1Mi"}))]), json!([]));
        assert_eq!(over(&bound, vec![volume("v", true, (1 << 20) + 1, None)]), text("1Mi"));
        // One container without a limit, and the pod has none.
        let two = json!([container("a", json!({"memory": "1Mi"})), container("b", json!({}))]);
        assert_eq!(over(&pod(two, json!([])), vec![volume("v", true, 2 << 20, None)]), None);
    }

    #[test]
    fn volumes_in_memory_count_as_the_pods_memory() {
        let bound = pod(json!([container("a", json!({"memory": "3Mi"}))]), json!([]));
        let used = |memory_bytes| Used {
            volumes: vec![volume("v", true, 1 << 20, None), volume("disk", false, GIB, None)],
            memory_bytes,
            ..Used::default()
        };
        assert_eq!(excess(&bound, &used(2 << 20), GIB), None);
        assert_eq!(
            excess(&bound, &used((2 << 20) + 1024), GIB).unwrap(),
            "Pod memory usage exceeds the total limit of containers 3Mi: containers hold 2049Ki, volumes \
             in memory 1Mi. "
        );
    }

    #[test]
    fn ephemeral_storage_is_logs_and_volumes_on_disk() {
        let limit = |bytes: &str| json!({"ephemeral-storage": bytes});
        let list = json!([container("a", limit("1Ki")), container("b", limit("3Ki"))]);
        let two = pod(list, json!([container("init", limit("2Ki"))]));
        let used = |disk: u64, memory: u64, a: u64, b: u64| Used {
            volumes: vec![volume("v", false, disk, None), volume("m", true, memory, None)],
            logs: BTreeMap::from([("a".to_string(), a), ("b".to_string(), b)]),
            memory_bytes: 0,
        };
        assert_eq!(excess(&two, &used(2048, GIB, 1024, 1024), GIB), None);
        assert_eq!(
            excess(&two, &used(2048, 0, 1024, 1025), GIB).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 4Ki. "
        );
        assert_eq!(
            excess(&two, &used(0, 0, 1025, 0), GIB).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"1Ki\". "
        );
        let sidecar = json!([{"name": "s", "restartPolicy": "Always",
            "resources": {"limits": {"ephemeral-storage": "1Ki"}}}, container("i", limit("9Ki"))]);
        let list = json!([container("a", limit("1Ki"))]);
        assert_eq!(pod_limit(&pod(list, sidecar), STORAGE), Some(10 << 10));
    }
}
