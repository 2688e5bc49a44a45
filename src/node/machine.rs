//! What the node tells of its machine: names and versions, and whether memory or disk run low.

use std::path::Path;
use std::str::FromStr;

use crate::api::quantity::Quantity;

/// When memory and disk are low (kubelet's `--eviction-hard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Of available memory: `memory.available`.
    pub memory: Amount,
    /// Of the free room on the data directory's file system: `nodefs.available`.
    pub disk: Amount,
    /// Of the free room where artifacts are kept, if that is elsewhere: `imagefs.available`.
    pub store: Amount,
}

/// A part of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Bytes(u64),
    Percent(u64),
    /// So many percent, but no more than so many bytes.
    PercentUpTo(u64, u64),
}

impl Default for Thresholds {
    /// Kubelet's, but that a gibibyte of free room is enough on a disk of any size.
    fn default() -> Thresholds {
        Thresholds {
            memory: Amount::Bytes(100 << 20),
            disk: Amount::PercentUpTo(10, 1 << 30),
            store: Amount::PercentUpTo(10, 1 << 30),
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Thresholds, String> {
        let mut thresholds = Thresholds::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let form = || format!("{part:?} is not of the form SIGNAL<AMOUNT");
            let (signal, amount) = part.split_once('<').ok_or_else(form)?;
            let amount = amount.trim().parse()?;
            match signal.trim() {
                "memory.available" => thresholds.memory = amount,
                "nodefs.available" => thresholds.disk = amount,
                "imagefs.available" => thresholds.store = amount,
                other => {
                    let known = "memory.available, nodefs.available and imagefs.available";
                    return Err(format!("signal {other:?} is not known; known are {known}"));
                }
            }
        }
        Ok(thresholds)
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| *percent <= 100);
            return percent.map(Amount::Percent).ok_or(format!("{text:?} is no percentage"));
        }
        let bytes =
            Quantity::parse(text).ok().and_then(|amount| u64::try_from(amount.value()).ok());
        bytes.map(Amount::Bytes).ok_or(format!("{text:?} is no amount of bytes"))
    }
}

impl Amount {
    /// In bytes, of a whole.
    pub fn of(self, whole: u64) -> u64 {
        let share = |percent: u64| (u128::from(whole) * u128::from(percent) / 100) as u64;
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(percent) => share(percent),
            Amount::PercentUpTo(percent, most) => share(percent).min(most),
        }
    }
}

/// Free room on a file system, and when that is little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    pub threshold_bytes: u64,
}

impl Room {
    pub fn is_low(&self) -> bool {
        self.free_bytes < self.threshold_bytes
    }
}

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
    pub store: Store,
}

/// What is true of the directory in which artifacts are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    #[default]
    Usable,
    /// There is little room, or no inode is left.
    Full,
    ReadOnly,
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

/// Where artifacts are kept, below the data directory.
const STORE_DIR: &str = "images";

/// Looks at memory and the disks of the data directory and of artifacts (blocking). What cannot be
/// read is no pressure: a node must not turn pods away because of it.
pub fn pressure(data_dir: &Path, thresholds: &Thresholds) -> Pressure {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = match (meminfo(&text, "MemAvailable:"), meminfo(&text, "MemTotal:")) {
        (Some(available), Some(total)) => available < thresholds.memory.of(total),
        _ => false,
    };
    let disk = room(data_dir, thresholds).is_some_and(|room| room.is_low());
    let store = rustix::fs::statvfs(data_dir.join(STORE_DIR));
    let store = store.map_or(Store::Usable, |found| store_of(&found, thresholds));
    Pressure { memory, disk, store }
}

fn store_of(found: &rustix::fs::StatVfs, thresholds: &Thresholds) -> Store {
    let whole = found.f_blocks * found.f_frsize;
    let is_low = found.f_bavail * found.f_frsize < thresholds.store.of(whole);
    // File systems that make inodes as they need them tell of none.
    let no_inode = found.f_files > 0 && found.f_favail == 0;
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        Store::ReadOnly
    } else if is_low || no_inode {
        Store::Full
    } else {
        Store::Usable
    }
}

/// Looks at the file system of the data directory (blocking).
pub fn room(data_dir: &Path, thresholds: &Thresholds) -> Option<Room> {
    let disk = rustix::fs::statvfs(data_dir).ok()?;
    let threshold_bytes = thresholds.disk.of(disk.f_blocks * disk.f_frsize);
    Some(Room { free_bytes: disk.f_bavail * disk.f_frsize, threshold_bytes })
}

fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_kubelet_reads_them() {
        let read = |text: &str| text.parse::<Thresholds>();
        assert_eq!(read(""), Ok(Thresholds::default()));
        let all = Thresholds {
            memory: Amount::Bytes(1 << 30),
            disk: Amount::Percent(15),
            store: Amount::Percent(5),
        };
        let text = "memory.available<1Gi,nodefs.available<15%,imagefs.available<5%";
        assert_eq!(read(text), Ok(all));
        for bad in ["nodefs.available", "pid.available<1%", "nodefs.available<101%", "x<", "<1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(Amount::Percent(10).of(u64::MAX), u64::MAX / 10);
        assert_eq!(Amount::PercentUpTo(10, 1 << 30).of(1 << 40), 1 << 30);
        assert_eq!(Amount::PercentUpTo(10, 1 << 30).of(1000), 100);
    }

    #[test]
    fn an_artifact_store_that_is_full_or_read_only_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = |thresholds: &Thresholds| pressure(dir.path(), thresholds).store;
        let all = Thresholds { store: Amount::Bytes(u64::MAX), ..Thresholds::default() };
        assert_eq!(store(&all), Store::Usable, "nothing was kept yet");
        std::fs::create_dir(dir.path().join(STORE_DIR)).unwrap();
        assert_eq!(store(&all), Store::Full);
        let none = Thresholds { store: Amount::Bytes(0), ..Thresholds::default() };
        let mut found = rustix::fs::statvfs(dir.path()).unwrap();
        found.f_flag = rustix::fs::StatVfsMountFlags::empty();
        found.f_files = 0;
        assert_eq!(store_of(&found, &none), Store::Usable);
        (found.f_files, found.f_favail) = (10, 0);
        assert_eq!(store_of(&found, &none), Store::Full);
        found.f_flag = rustix::fs::StatVfsMountFlags::RDONLY;
        assert_eq!(store_of(&found, &none), Store::ReadOnly);
    }
}
