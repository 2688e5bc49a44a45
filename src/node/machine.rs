//! What the node tells of its machine: names and versions, and whether memory or disk run low.

use std::path::Path;

/// Memory is low below this many available bytes (kubelet's default threshold, 100 Mi).
const LOW_MEMORY_BYTES: u64 = 100 << 20;
/// Disk is low below a tenth of its size, but never while this many bytes are free: kubelet's
/// tenth alone would call a large disk full.
const ENOUGH_DISK_BYTES: u64 = 1 << 30;

/// Names and versions.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub boot_id: String,
    pub machine_id: String,
    pub kernel: String,
    pub os_image: String,
}

/// What runs low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
}

/// Reads the machine's names (blocking); what is not there stays empty.
pub fn read() -> Machine {
    let text = |path: &str| {
        std::fs::read_to_string(path).map(|text| text.trim().to_string()).unwrap_or_default()
    };
    let release = text("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Machine {
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        machine_id: text("/etc/machine-id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image: pretty.unwrap_or(std::env::consts::OS).trim_matches('"').to_string(),
    }
}

/// Looks at memory and the disk of the data directory (blocking). What cannot be read is no
/// pressure: a node must not turn pods away because of it.
pub fn pressure(data_dir: &Path) -> Pressure {
    let memory = available_memory().is_some_and(|bytes| bytes < LOW_MEMORY_BYTES);
    let disk = rustix::fs::statvfs(data_dir).is_ok_and(|disk| {
        let (free, size) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        free < (size / 10).min(ENOUGH_DISK_BYTES)
    });
    Pressure { memory, disk }
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
