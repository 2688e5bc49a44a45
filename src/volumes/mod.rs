//! Volumes of a pod as directories of the host: a table of kinds ([`KINDS`]), each in its own file.
//!
//! A kind tells which objects it needs and turns them into files; [`writer`] puts files into a
//! directory atomically; [`field_ref`] resolves the downward API. This room knows nothing of the
//! API's transport: the caller fetches the [`Need`]s and hands over [`Objects`].

pub mod claim;
pub mod config_map;
pub mod downward_api;
pub mod empty_dir;
pub mod field_ref;
mod gzip;
pub mod host_path;
pub mod image;
mod layer;
pub mod memory_dir;
pub mod program;
pub mod projected;
pub mod secret;
pub mod sub_path;
pub mod unpack;
#[cfg(test)]
mod unpack_tests;
pub mod writer;
mod zstd;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Volume,
};

use crate::base::beneath;

/// Files a volume may hold at most, and the bytes of all of them (a ConfigMap or Secret holds at
/// most 1 MiB; a projected volume several).
const MOST_FILES: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;
/// The mode of files that name none (core/v1 defaultMode, 0644).
pub const DEFAULT_MODE: i32 = 0o644;

/// Something that a volume or an environment needs from the API, in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    ConfigMap(String),
    Secret(String),
    /// A claim, and the volume that it is bound to.
    Claim(String),
    /// The same, of the claim that is made for this volume of the pod.
    OwnClaim(String),
    /// A token of the pod's service account.
    Token {
        audience: String,
        expiration_seconds: i64,
    },
}

/// The needed objects that exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// Those that the claims are bound to, by their names.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// By audience and lifetime in seconds.
    pub tokens: BTreeMap<(String, i64), Arc<str>>,
}

impl Objects {
    /// These, with the newer ConfigMaps and Secrets of another look; nothing is copied where they are
    /// the same.
    pub fn with(self: Arc<Objects>, newer: &Objects) -> Arc<Objects> {
        let is_same = all_within(&newer.config_maps, &self.config_maps)
            && all_within(&newer.secrets, &self.secrets);
        if is_same {
            return self;
        }
        let mut all = Arc::unwrap_or_clone(self);
        all.config_maps.extend(newer.config_maps.clone());
        all.secrets.extend(newer.secrets.clone());
        Arc::new(all)
    }
}

fn all_within<T>(some: &BTreeMap<String, Arc<T>>, all: &BTreeMap<String, Arc<T>>) -> bool {
    some.iter().all(|(name, one)| all.get(name).is_some_and(|other| Arc::ptr_eq(one, other)))
}

/// What volumes and environments are made from.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub pod: &'a Pod,
    pub node_name: &'a str,
    pub host_ip: IpAddr,
    pub pod_ip: IpAddr,
    /// What a container without a limit may use, for resource field references.
    pub allocatable: Allocatable,
    pub objects: &'a Objects,
    pub host: &'a Host,
}

/// What the node has for volumes beside the pods' own directories.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Where volumes are that were made on this node.
    pub volumes_dir: PathBuf,
    /// Absolute paths of directories whose content pods may mount.
    pub allowed_dirs: Vec<PathBuf>,
    /// The node's labels, which volumes may ask for.
    pub labels: BTreeMap<String, String>,
    /// Where volumes in memory are; without it they are on disk.
    pub memory_dir: Option<Arc<memory_dir::MemoryDir>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Allocatable {
    pub cpu_millicores: i64,
    pub memory_bytes: i64,
    /// Of the disk that logs and emptyDirs are on.
    pub storage_bytes: i64,
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Files by their relative path.
pub type Files = BTreeMap<String, File>;

/// What is in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory that the containers write to.
    Scratch,
    /// Files that follow their objects; always mounted read-only.
    Files(Files),
    /// The files of an image, which all pods of the node share.
    Image,
    /// A directory that outlives the pod: below a root whose path no container can change.
    Directory { root: PathBuf, sub_path: PathBuf, make: bool, read_only: bool },
}

/// Where a volume is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A directory whose path no container can change.
    pub root: PathBuf,
    /// The way from there; empty for the root itself.
    pub sub_path: PathBuf,
    pub read_only: bool,
    /// It is not the pod's alone: not even a subPath that is missing is made in it.
    pub is_shared: bool,
}

/// Why a volume cannot be made. The messages are upstream's where it has them.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Invalid(String),
    /// The claim of a volume is not what a pod can use (yet).
    #[error("{0}")]
    Claim(String),
    #[error("volume {0:?} is of a kind that this node does not provide")]
    Unsupported(String),
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}

/// A row of the table of kinds.
pub struct VolumeKind {
    pub name: &'static str,
    /// Whether a volume is of this kind.
    pub matches: fn(&Volume) -> bool,
    /// Adds what it needs from the API.
    pub needs: fn(&Volume, &mut Vec<Need>),
    pub content: fn(&Volume, &Context) -> Result<Content, VolumeError>,
    /// Whether its content follows what it is made of.
    pub refreshes: bool,
}

/// Every kind of volume. To add one: write its file, add its line here.
pub static KINDS: &[&VolumeKind] = &[
    &empty_dir::KIND,
    &config_map::KIND,
    &secret::KIND,
    &downward_api::KIND,
    &projected::KIND,
    &claim::KIND,
    &host_path::KIND,
    &image::KIND,
];

/// The row of a volume.
pub fn kind_of(volume: &Volume) -> Result<&'static VolumeKind, VolumeError> {
    let found = KINDS.iter().copied().find(|kind| (kind.matches)(volume));
    found.ok_or_else(|| VolumeError::Unsupported(volume.name.clone()))
}

/// What a pod's volumes need from the API, each once.
pub fn needs(volumes: &[Volume]) -> Result<Vec<Need>, VolumeError> {
    let mut needs = Vec::new();
    for volume in volumes {
        (kind_of(volume)?.needs)(volume, &mut needs);
    }
    needs.sort();
    needs.dedup();
    Ok(needs)
}

/// Where a volume is, for a container that mounts it.
pub fn place(pod_dir: &Path, volume: &Volume, context: &Context) -> Result<Place, VolumeError> {
    let kind = kind_of(volume)?;
    if kind.refreshes || kind.name == empty_dir::KIND.name {
        let root = volume_dir(pod_dir, volume, context.host)?;
        // Only scratch space is writable, whatever the mount says (as upstream since 1.9.6).
        let (read_only, sub_path) = (kind.refreshes, PathBuf::new());
        return Ok(Place { root, sub_path, read_only, is_shared: false });
    }
    match (kind.content)(volume, context)? {
        Content::Directory { root, sub_path, read_only, .. } => {
            Ok(Place { root, sub_path, read_only, is_shared: false })
        }
        Content::Image => match image::settled(&volume_dir(pod_dir, volume, context.host)?) {
            Some(root) => {
                Ok(Place { root, sub_path: PathBuf::new(), read_only: true, is_shared: true })
            }
            None => {
                let text = format!("the image of volume {:?} is not on this node", volume.name);
                Err(VolumeError::Missing(text))
            }
        },
        _ => Err(VolumeError::Unsupported(volume.name.clone())),
    }
}

/// The directory of a volume: below the pod's directory, or below its twin in memory.
pub fn volume_dir(pod_dir: &Path, volume: &Volume, host: &Host) -> Result<PathBuf, VolumeError> {
    let name = dir_name(volume)?;
    match &host.memory_dir {
        Some(memory) if empty_dir::wants_memory(volume) => {
            Ok(memory.pod_dir(uid_of(pod_dir)).join(name))
        }
        _ => Ok(pod_dir.join(name)),
    }
}

fn dir_name(volume: &Volume) -> Result<String, VolumeError> {
    // Names are DNS labels by validation; a path must not depend on it.
    check_path(&volume.name)?;
    // One directory a volume and none in between: pods that start pay for each.
    Ok(format!("{}~{}", kind_of(volume)?.name, volume.name))
}

/// Pods' directories have their names.
fn uid_of(pod_dir: &Path) -> &str {
    pod_dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Makes or refreshes one volume (blocking). Answers whether anything was changed.
pub fn set_up(pod_dir: &Path, volume: &Volume, context: &Context) -> Result<bool, VolumeError> {
    let dir = volume_dir(pod_dir, volume, context.host)?;
    let kind = kind_of(volume)?;
    match (kind.content)(volume, context)? {
        Content::Scratch => {
            if let Some(memory) =
                context.host.memory_dir.as_ref().filter(|_| empty_dir::wants_memory(volume))
            {
                let made = memory.make(uid_of(pod_dir), &dir_name(volume)?);
                return writer::io("make directory", &dir, made);
            }
            let fresh = !dir.exists();
            writer::make_dir(&dir, 0o755)?;
            Ok(fresh)
        }
        // Made when the first container that mounts it starts.
        Content::Image => Ok(false),
        Content::Files(files) => {
            check_size(&volume.name, &files)?;
            writer::write(&dir, &files)
        }
        Content::Directory { root, sub_path, make, .. } => {
            let whole = root.join(&sub_path);
            if make && sub_path.as_os_str().is_empty() {
                writer::make_dir(&root, 0o755)?;
            }
            let top = writer::io("open", &root, beneath::root(&root))?;
            let found = match make {
                true => beneath::find_or_make(top.as_fd(), &sub_path, 0o755),
                false => beneath::find(top.as_fd(), &sub_path),
            };
            let found = writer::io("open", &whole, found)?;
            match writer::io("look at", &whole, beneath::file_type(found.as_fd()))? {
                rustix::fs::FileType::Directory => Ok(false),
                _ => Err(VolumeError::Invalid(format!("{} is not a directory", whole.display()))),
            }
        }
    }
}

fn check_size(volume: &str, files: &Files) -> Result<(), VolumeError> {
    let bytes: usize = files.values().map(|file| file.bytes.len()).sum();
    if files.len() > MOST_FILES || bytes > MOST_BYTES {
        let text = format!(
            "volume {volume:?} has {} files and {bytes} bytes; at most {MOST_FILES} and {MOST_BYTES}",
            files.len()
        );
        return Err(VolumeError::Invalid(text));
    }
    Ok(())
}

/// Refuses absolute paths and those that leave the volume or collide with the writer's own names.
pub fn check_path(path: &str) -> Result<(), VolumeError> {
    let bad = |why: &str| Err(VolumeError::Invalid(format!("path {path:?} {why}")));
    if path.is_empty() || path.len() > 4096 {
        return bad("must have 1 to 4096 characters");
    }
    if path.starts_with('/') || path.contains('\0') {
        return bad("must be relative");
    }
    if path.starts_with("..") {
        return bad("must not start with '..'");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return bad("must not contain empty parts, '.' or '..'");
    }
    Ok(())
}

/// Picks keys into files: all of them, or those of `items` under their paths. `what` names the
/// object in messages.
pub(crate) fn pick(
    what: &str,
    keys: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: i32,
    optional: bool,
    files: &mut Files,
) -> Result<(), VolumeError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in keys {
            add(files, key, bytes, default_mode)?;
        }
        return Ok(());
    };
    for item in items {
        match keys.get(item.key.as_str()) {
            Some(bytes) => add(files, &item.path, bytes, item.mode.unwrap_or(default_mode))?,
            None if optional => {}
            None => {
                let text = format!("{what} references non-existent config key: {}", item.key);
                return Err(VolumeError::Missing(text));
            }
        }
    }
    Ok(())
}

/// Adds one file under a checked path and mode.
pub(crate) fn add(
    files: &mut Files,
    path: &str,
    bytes: &[u8],
    mode: i32,
) -> Result<(), VolumeError> {
    check_path(path)?;
    let mode = u32::try_from(mode).ok().filter(|mode| *mode <= 0o777);
    let Some(mode) = mode else {
        return Err(VolumeError::Invalid(format!("the mode of {path:?} must be 0 to 0777")));
    };
    files.insert(path.to_string(), File { bytes: bytes.to_vec(), mode });
    Ok(())
}

/// The container of a resource field reference: named, or the one that refers.
pub(crate) fn named_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b.c", ".hidden", "a..b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "../a", "a/../b", "..data", "a//b", "a/.", "a\0"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
