//! emptyDir: a directory that lives as long as the pod, on the node's disk or, with `medium: Memory`,
//! on a tmpfs of the machine ([`super::memory_dir`]) where there is one.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Volume;

use super::{Content, Host, VolumeKind};
use crate::api::quantity::Quantity;

/// Entries that one look at the usage visits at most; more is taken as over the limit.
const MOST_ENTRIES: usize = 1_000_000;

pub static KIND: VolumeKind = VolumeKind {
    name: "empty-dir",
    // A volume without a source is an emptyDir (core/v1 defaults).
    matches: |volume| {
        volume.empty_dir.is_some()
            || *volume == Volume { name: volume.name.clone(), ..Volume::default() }
    },
    needs: |_, _| {},
    content: |_, _| Ok(Content::Scratch),
    refreshes: false,
};

/// The medium of volumes that are to be in memory (core/v1 StorageMedium).
const MEMORY: &str = "Memory";

/// Whether the volume is to be in memory.
pub fn wants_memory(volume: &Volume) -> bool {
    let source = volume.empty_dir.as_ref();
    source.is_some_and(|source| source.medium.as_deref() == Some(MEMORY))
}

/// Whether the volume is in memory on a node.
pub fn is_in_memory(volume: &Volume, host: &Host) -> bool {
    wants_memory(volume) && host.memory_dir.is_some()
}

/// What the volume may hold, where it says so: as text, and in bytes.
pub fn size_limit(volume: &Volume) -> Option<(String, u64)> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
    let limit = Quantity::parse(&limit.0).ok()?;
    let bytes = u64::try_from(limit.value()).ok().filter(|bytes| *bytes > 0)?;
    Some((limit.to_string(), bytes))
}

/// The bytes of all files below a directory (blocking); links are not followed, and a file of several
/// names counts once.
pub fn usage_bytes(dir: &Path) -> u64 {
    let (mut bytes, mut entries) = (0u64, 0usize);
    let mut counted = HashSet::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        // What vanishes while it is looked at counts nothing.
        let Ok(list) = std::fs::read_dir(&dir) else { continue };
        for entry in list.flatten() {
            entries += 1;
            if entries > MOST_ENTRIES {
                return u64::MAX;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) if meta.nlink() > 1 && !counted.insert((meta.dev(), meta.ino())) => {}
                Ok(meta) => bytes = bytes.saturating_add(meta.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_whatever_its_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("a"), [0; 1000]).unwrap();
        std::fs::write(dir.path().join("b"), [0; 10]).unwrap();
        for name in ["c", "d/e"] {
            std::fs::hard_link(dir.path().join("a"), dir.path().join(name)).unwrap();
        }
        assert_eq!(usage_bytes(dir.path()), 1010);
    }
}
