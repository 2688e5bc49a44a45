//! The settings of a node agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Taint;

use super::StaticPodSource;
use super::logs::LogLimits;
use super::machine::Thresholds;
use super::pod_state::Timing;

/// How long fetched ConfigMaps and Secrets are good for the start of a container.
const OBJECTS_FRESH: SignedDuration = SignedDuration::from_secs(5);

/// At least so often the Lease is renewed before the control plane would give the node up: one of
/// them may be lost, and one late.
const RENEWALS_IN_GRACE: u32 = 3;

/// Settings; everything has a default but the name, the data directory and the address.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Node's name; a DNS label.
    pub name: String,
    /// Pods' directories and logs.
    pub data_dir: PathBuf,
    /// The node's own address.
    pub host_ip: IpAddr,
    pub capacity: Capacity,
    /// What of it is not for pods.
    pub reserved: Reserved,
    /// Labels beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// What the node's runtime offers to programs (`status.declaredFeatures`).
    pub features: Vec<String>,
    /// Taints that the Node is created with.
    pub taints: Vec<Taint>,
    /// Directories of the machine whose content hostPath volumes, and local PersistentVolumes that are
    /// made by hand, may be.
    pub host_paths: Vec<PathBuf>,
    /// Where static pods are read from.
    pub static_pods: Option<StaticPodSource>,
    /// Directories in memory where emptyDirs of medium Memory may be; the first that is on a tmpfs.
    pub memory_roots: Vec<PathBuf>,
    /// When memory and disk are low.
    pub eviction: Thresholds,
    /// The bound of containers without `limits.memory`.
    pub default_memory_limit_bytes: u64,
    pub timing: Timing,
    pub logs: LogLimits,
    /// Of the node's Lease, unless the control plane wants it renewed more often.
    pub lease: LeaseTimes,
    /// Whether pods end here that the control plane gives up, if it cannot be reached for longer than
    /// the lease holds: see `node/fencing.rs`.
    pub fence: bool,
    /// How often the Node's status is written though nothing changed (kubelet: 5 min).
    pub status_period: Duration,
    /// How often volumes follow their objects and the cache is compared with the workers.
    pub refresh_period: Duration,
}

/// How often a Lease is renewed, and how long it holds (kubelet: 10 s and 40 s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    pub period: Duration,
    pub duration: Duration,
}

impl LeaseTimes {
    /// A Lease holds for four heartbeats.
    pub fn of_heartbeat(period: Duration) -> LeaseTimes {
        LeaseTimes { period, duration: period * 4 }
    }
}

/// What the machine and the agent keep for themselves (kubelet's system-reserved).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub cpu_millicores: u64,
    pub memory_bytes: u64,
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
            capacity: Capacity::of_machine(&data_dir),
            reserved: Reserved::default(),
            data_dir,
            labels: BTreeMap::new(),
            features: Vec::new(),
            taints: Vec::new(),
            host_paths: Vec::new(),
            static_pods: None,
            memory_roots: vec!["/dev/shm".into(), user_dir()],
            eviction: Thresholds::default(),
            default_memory_limit_bytes: 256 << 20,
            timing: Timing::default(),
            logs: LogLimits::default(),
            lease: LeaseTimes::of_heartbeat(Duration::from_secs(10)),
            fence: false,
            status_period: Duration::from_secs(300),
            refresh_period: Duration::from_secs(60),
        }
    }

    /// What pods may have together.
    pub fn allocatable(&self) -> Capacity {
        let Reserved { cpu_millicores, memory_bytes } = self.reserved;
        Capacity {
            cpu_millicores: self.capacity.cpu_millicores.saturating_sub(cpu_millicores),
            memory_bytes: self.capacity.memory_bytes.saturating_sub(memory_bytes),
            ..self.capacity
        }
    }

    /// How the Lease is renewed where the control plane gives a silent node up after `grace`.
    pub(super) fn lease_times(&self, grace: Option<Duration>) -> LeaseTimes {
        let most = grace.unwrap_or(Duration::MAX);
        LeaseTimes {
            period: self.lease.period.min(most / RENEWALS_IN_GRACE),
            duration: self.lease.duration.min(most),
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

/// What a process can address where nobody limits it: 47 bits, of x86-64 and most others.
const ADDRESSES: u64 = 1 << 47;
/// Mappings that the instance of a pod takes: of its memory the part in use, and the reserved rest
/// with the guards around it. What else it has is in the quarter that is left free.
const MAPS_OF_A_POD: u64 = 2;

/// Pods for which mappings and addresses are there. A quarter is left to everything else, such as
/// threads, code, and instances that serve requests.
fn room_for(maps: u64, addresses: u64) -> u64 {
    let (maps, addresses) = (maps / 4 * 3, addresses / 4 * 3);
    (maps / MAPS_OF_A_POD).min(addresses / crate::runtime::ADDRESSES_OF_A_MEMORY)
}

impl Capacity {
    /// Pods that a node takes by default: far more than kubelet's 110, a sleeping one costs little.
    pub const DEFAULT_PODS: u32 = 2000;

    /// How many pods each of `nodes` on this machine may run at the same time: as many as it has
    /// address space and mappings for, and [`Capacity::DEFAULT_PODS`] at most.
    pub fn pods_of_machine(nodes: u32) -> u64 {
        let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count");
        let maps = maps.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
        let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
        let addresses = limit.unwrap_or(u64::MAX).min(ADDRESSES);
        let nodes = u64::from(nodes.max(1));
        (room_for(maps, addresses) / nodes).clamp(1, Capacity::DEFAULT_PODS.into())
    }

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

    #[test]
    fn pods_follow_from_mappings_and_addresses() {
        // Linux' own limit, and 47 bits.
        assert_eq!(room_for(65_530, ADDRESSES), 24_573);
        // A process that may have 64 GiB of addresses only.
        assert_eq!(room_for(65_530, 64 << 30), 191);
        assert!((1..=2000).contains(&Capacity::pods_of_machine(1)));
    }

    #[test]
    fn the_lease_is_renewed_in_time_for_the_control_plane() {
        let options = Options::new("n1", "/nowhere", IpAddr::from([127, 0, 0, 1]));
        let of = |grace: Option<u64>| {
            let LeaseTimes { period, duration } =
                options.lease_times(grace.map(Duration::from_secs));
            (period.as_secs(), duration.as_secs())
        };
        assert_eq!([of(None), of(Some(40)), of(Some(400))], [(10, 40); 3]);
        assert_eq!((of(Some(30)), of(Some(9))), ((10, 30), (3, 9)));
    }

    #[test]
    fn what_is_reserved_is_not_for_pods() {
        let mut options = Options::new("n1", "/nowhere", IpAddr::from([127, 0, 0, 1]));
        options.capacity =
            Capacity { cpu_millicores: 4000, memory_bytes: 100, pods: 7, storage_bytes: 8 };
        assert_eq!(options.allocatable(), options.capacity);
        options.reserved = Reserved { cpu_millicores: 500, memory_bytes: 200 };
        let left = options.allocatable();
        assert_eq!((left.cpu_millicores, left.memory_bytes, left.pods), (3500, 0, 7));
    }
}
