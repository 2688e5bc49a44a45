//! The settings of a node agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Taint;

use super::logs::LogLimits;
use super::machine::Thresholds;
use super::pod_state::Timing;

/// How long fetched ConfigMaps and Secrets are good for the start of a container.
const OBJECTS_FRESH: SignedDuration = SignedDuration::from_secs(5);

/// Settings; everything has a default but the name, the data directory and the address.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Node's name; a DNS label.
    pub name: String,
    /// Pods' directories and logs.
    pub data_dir: PathBuf,
    /// The node's own address.
    pub host_ip: IpAddr,
    /// The address of the Service `kubernetes`, which containers are told.
    pub api_service: Option<IpAddr>,
    pub capacity: Capacity,
    /// Labels beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Taints that the Node is created with.
    pub taints: Vec<Taint>,
    /// Directories of the machine whose content hostPath volumes, and local PersistentVolumes that are
    /// made by hand, may be.
    pub host_paths: Vec<PathBuf>,
    /// Directories in memory where emptyDirs of medium Memory may be; the first that is on a tmpfs.
    pub memory_roots: Vec<PathBuf>,
    /// When memory and disk are low.
    pub eviction: Thresholds,
    /// The bound of containers without `limits.memory`.
    pub default_memory_limit_bytes: u64,
    pub timing: Timing,
    pub logs: LogLimits,
    /// How often the Lease is renewed, and how long it holds (kubelet: 10 s and 40 s).
    pub lease_period: Duration,
    pub lease_duration: Duration,
    /// How often the Node's status is written though nothing changed (kubelet: 5 min).
    pub status_period: Duration,
    /// How often volumes follow their objects and the cache is compared with the workers.
    pub refresh_period: Duration,
}

/// What the node has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_millicores: u64,
    pub memory_bytes: u64,
    pub pods: u64,
    pub storage_bytes: u64,
}

impl Options {
    pub fn new(name: &str, data_dir: impl Into<PathBuf>, host_ip: IpAddr) -> Options {
        let data_dir = data_dir.into();
        Options {
            name: name.to_string(),
            host_ip,
            api_service: None,
            capacity: Capacity::of_machine(&data_dir),
            data_dir,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            host_paths: Vec::new(),
            memory_roots: vec!["/dev/shm".into(), user_dir()],
            eviction: Thresholds::default(),
            default_memory_limit_bytes: 256 << 20,
            timing: Timing::default(),
            logs: LogLimits::default(),
            lease_period: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            status_period: Duration::from_secs(300),
            refresh_period: Duration::from_secs(60),
        }
    }

    pub(super) fn objects_fresh(&self) -> SignedDuration {
        OBJECTS_FRESH
    }
}

/// A tmpfs that systemd mounts for each user.
fn user_dir() -> PathBuf {
    format!("/run/user/{}", rustix::process::geteuid().as_raw()).into()
}

impl Capacity {
    /// Pods that a node takes by default: far more than kubelet's 110, a sleeping one costs little.
    pub const DEFAULT_PODS: u32 = 2000;

    /// All that this machine has.
    pub fn of_machine(data_dir: &Path) -> Capacity {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let system = rustix::system::sysinfo();
        // The directory may not be there yet; its parents are on the same disk.
        let disk = data_dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
        Capacity {
            cpu_millicores: cpus * 1000,
            memory_bytes: system.totalram as u64 * u64::from(system.mem_unit),
            pods: Capacity::DEFAULT_PODS.into(),
            storage_bytes: disk.map_or(0, |disk| disk.f_blocks * disk.f_frsize),
        }
    }
    /// What each of `nodes` on one machine has: together they promise no more than there is. The
    /// number of pods is a node's own.
    pub fn part(self, nodes: u32) -> Capacity {
        let nodes = u64::from(nodes.max(1));
        Capacity {
            cpu_millicores: self.cpu_millicores / nodes,
            memory_bytes: self.memory_bytes / nodes,
            pods: self.pods,
            storage_bytes: self.storage_bytes / nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_machine_share_it() {
        let machine = Capacity { cpu_millicores: 4000, memory_bytes: 9, pods: 7, storage_bytes: 8 };
        let half = Capacity { cpu_millicores: 2000, memory_bytes: 4, pods: 7, storage_bytes: 4 };
        assert_eq!(machine.part(2), half);
        assert_eq!(machine.part(0), machine);
    }
}
